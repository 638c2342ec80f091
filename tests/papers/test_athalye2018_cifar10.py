"""Table 1 of Athalye et al. 2018 on CIFAR-10: blind attacks believe a defence that hides its gradient, ours do not."""

from pathlib import Path

import polars as pl
import pytest
import torch
from paper_toys import RECIPE

from casemate import data, models
from casemate.audit.presets import quick
from casemate.papers.athalye2018 import cifar10
from casemate.papers.athalye2018.cifar10_defences import DEFENDED
from casemate.papers.athalye2018.items import ATHALYE2018
from casemate.papers.item import Outcome, Run
from casemate.papers.networks import Networks
from casemate.training import recipe as recipes

N = 40
CHOSEN = ("no defence", "bit depth, 3 bits", "thermometer, 16 levels", "resizing and padding", "activation pruning")
ROWS = {defended.name: defended for defended in DEFENDED}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("athalye")
    defended = "{{name: defended-cnn, arguments: {{defence: {}, width: 8, in_channels: 1, size: 28}}}}"
    built = {
        "cifar10-natural": "{name: small-cnn, arguments: {width: 8}}",
        "cifar10-thermometer": defended.format("thermometer"),
        "cifar10-resize-pad": defended.format("resize-pad"),
    }
    for name, model in built.items():
        text = (
            RECIPE.format(objective="{kind: natural}")
            .replace("hold_out: 1000", "hold_out: 100")
            .replace("linf:0.1", "linf:0.2")
        )
        lines = [f"model: {model}" if line.startswith("model:") else line for line in text.splitlines()]
        lines = ["epochs: 3" if line.startswith("epochs:") else line for line in lines]
        (folder / f"{name}-small.yaml").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "N_IMAGES", {"small": N})
        patch.setattr(cifar10, "N_COSTLY", {"small": 2})
        patch.setattr(cifar10, "standard", quick)
        patch.setattr(cifar10, "DEFENDED", tuple(ROWS[name] for name in CHOSEN))
        return cifar10.make(Run("small", 0, Networks(folder, folder / "networks", "small").open))


def left(outcome: Outcome, name: str, kind: str) -> int:
    rows = outcome.data["accuracies"].filter((pl.col("defence") == name) & (pl.col("kind") == kind))
    return int(rows["right"].item())


def test_every_defence_has_its_three_accuracies_and_the_published_ones(outcome: Outcome) -> None:
    assert [row.item for row in outcome.rows] == list(CHOSEN)
    by_name = {row.item: row for row in outcome.rows}
    assert by_name["thermometer, 16 levels"].published == "claimed 50, broken to 0"
    assert "CIFAR-10" in by_name["thermometer, 16 levels"].note
    for name in CHOSEN:
        clean, blindly, ours = (left(outcome, name, kind) for kind in cifar10.KINDS)
        assert max(blindly, ours) <= clean
    assert {network.name for network in outcome.networks} == {
        f"cifar10-{name}-small" for name in ("natural", "thermometer", "resize-pad")
    }
    assert set(outcome.figures) == {"cifar10"}


@pytest.mark.parametrize("name", ["bit depth, 3 bits", "thermometer, 16 levels"])
def test_blind_attacks_leave_what_ours_break(outcome: Outcome, name: str) -> None:
    clean, blindly, ours = (left(outcome, name, kind) for kind in cifar10.KINDS)
    assert clean > 20
    assert blindly > clean / 2
    assert ours < blindly - 5


@pytest.mark.parametrize("path", sorted(ATHALYE2018.recipes.glob("cifar10-*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_fits_its_data(path: Path) -> None:
    recipe = recipes.read(path)
    with torch.device("meta"):
        network = models.build(recipe.model.name, **recipe.model.arguments)
    assert network(torch.rand(2, 3, 32, 32, device="meta")).shape == (2, 10)
    assert recipe.data == "cifar10"
    assert recipe.threat == "linf:8/255"
    assert path.read_text().startswith("# ")
    assert path.stem.rpartition("-")[0] in {defended.network for defended in DEFENDED}


def test_defended_networks_are_built_for_their_images_and_unknown_defences_refused() -> None:
    digits = data.load("digits-sample", "test", limit=3)
    for defence in ("thermometer", "k-winners", "resize-pad", "crop"):
        network = models.build("defended-cnn", defence=defence, in_channels=1, size=28)
        assert network(digits.images).shape == (3, 10)
    with pytest.raises(ValueError, match="choose one of thermometer"):
        models.build("defended-cnn", defence="hope")
