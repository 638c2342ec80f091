"""A paper's networks are trained once, each by its very recipe and seed."""

import shutil
from pathlib import Path

import pytest
import torch
from paper_toys import OBJECTIVES, RECIPE, write_recipes

from casemate import checkpoint
from casemate.errors import CasemateError
from casemate.papers.networks import Networks
from casemate.training import recipe as recipes
from casemate.training import train as training


def copied(toys: Path, place: Path) -> Path:
    shutil.copytree(toys, place / "toys")
    return place / "toys"


def test_a_trained_network_is_opened_and_not_trained_again(toys: Path) -> None:
    told: list[object] = []
    weights = (toys / "networks" / "mnist-pgd-small-seed0" / checkpoint.WEIGHTS).stat()
    networks = Networks(
        toys / "recipes", toys / "networks", "small", say=told.append, observe=lambda row, total: told.append(row)
    )
    network = networks.open("mnist-pgd")
    assert told == []
    assert not network.trained
    assert (network.folder / checkpoint.WEIGHTS).stat() == weights
    assert network.name == "mnist-pgd-small"
    assert network.recipe == recipes.read(toys / "recipes" / "mnist-pgd-small.yaml")
    assert checkpoint.fingerprint(network.model) == checkpoint.fingerprint(checkpoint.load(network.folder)[0])
    assert not network.model.training


def test_a_network_that_is_absent_is_trained_and_told_of(tmp_path: Path) -> None:
    said: list[str] = []
    steps: list[int] = []
    networks = Networks(
        write_recipes(tmp_path / "recipes"),
        tmp_path / "networks",
        "small",
        command="casemate reproduce",
        say=said.append,
        observe=lambda row, total: steps.append(row["step"]),
    )
    network = networks.open("mnist-natural")
    assert network.trained
    assert steps[-1] == network.card["steps"] == 60
    assert "mnist-natural-small" in said[0]
    assert network.card["command"] == "casemate reproduce"


def test_another_seed_is_another_network_beside_the_first(toys: Path, tmp_path: Path) -> None:
    folder = copied(toys, tmp_path)
    zero = Networks(folder / "recipes", folder / "networks", "small").open("mnist-natural")
    one = Networks(folder / "recipes", folder / "networks", "small", seed=1).open("mnist-natural")
    assert one.recipe.seed == one.card["seed"] == 1
    assert one.folder != zero.folder
    assert not torch.equal(one.model.state_dict()["fc.weight"], zero.model.state_dict()["fc.weight"])
    again = Networks(folder / "recipes", folder / "networks", "small").open("mnist-natural")
    assert checkpoint.fingerprint(again.model) == checkpoint.fingerprint(zero.model)


def test_the_seed_is_added_to_that_of_the_recipe(tmp_path: Path) -> None:
    content = RECIPE.format(objective=OBJECTIVES["mnist-natural"]).replace("epochs: 1", "epochs: 0.1")
    (tmp_path / "copy-small.yaml").write_text(content + "seed: 5\n")
    assert Networks(tmp_path, tmp_path / "networks", "small", seed=2).open("copy").recipe.seed == 7


def test_a_checkpoint_of_another_recipe_is_refused_and_kept(toys: Path, tmp_path: Path) -> None:
    folder = copied(toys, tmp_path)
    path = folder / "recipes" / "mnist-natural-small.yaml"
    path.write_text(path.read_text().replace("lr: 0.01", "lr: 0.02"))
    weights = (folder / "networks" / "mnist-natural-small-seed0" / checkpoint.WEIGHTS).read_bytes()
    with pytest.raises(CasemateError, match="another recipe"):
        Networks(folder / "recipes", folder / "networks", "small").open("mnist-natural")
    assert (folder / "networks" / "mnist-natural-small-seed0" / checkpoint.WEIGHTS).read_bytes() == weights


def test_a_training_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
    recipes_folder = write_recipes(tmp_path / "recipes")

    def interrupt(row: object, total: int) -> None:
        if row["step"] >= 30:  # type: ignore[index]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Networks(recipes_folder, tmp_path / "n", "small", observe=interrupt).open("mnist-natural")
    steps: list[int] = []
    networks = Networks(recipes_folder, tmp_path / "n", "small", observe=lambda row, total: steps.append(row["step"]))
    assert networks.open("mnist-natural").trained
    assert 20 < steps[0] <= 30
    assert steps[-1] == 60


def test_a_name_without_a_recipe_lists_the_known_ones(toys: Path) -> None:
    with pytest.raises(CasemateError, match=r"mnist-natural-small, mnist-pgd-small$"):
        Networks(toys / "recipes", toys / "networks", "small").open("imagenet-pgd")
