"""The bracket of networks trained by intervals: its ends are what the certifier proves and what the cascade leaves."""

from pathlib import Path

import polars as pl
import pytest
import torch
from paper_toys import RECIPE

from casemate import data, models
from casemate.attacks import PGD, evaluate
from casemate.bounds import IBP
from casemate.gradients import Engine
from casemate.papers import bracket
from casemate.papers.gowal2018 import cifar10, mnist, training_eps
from casemate.papers.gowal2018.items import GOWAL2018
from casemate.papers.item import Outcome, Run
from casemate.papers.networks import Networks
from casemate.threat import Linf, parse
from casemate.training import recipe as recipes
from casemate.training.interval import IntervalTraining

N = 60


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("gowal")
    objective = "{kind: interval, kappa: 0, ramp: 0.5}"
    for name in ("mnist-near", "mnist-far"):
        text = (
            RECIPE.format(objective=objective)
            .replace("epochs: 1", "epochs: 4")
            .replace("hold_out: 1000", "hold_out: 100")
        )
        (folder / f"{name}-small.yaml").write_text(
            text.replace("linf:0.1", "linf:0.1" if name == "mnist-near" else "linf:0.3")
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bracket, "N_IMAGES", {"small": N})
        return mnist.ITEM.make(Run("small", 0, Networks(folder, folder / "networks", "small").open))


def test_each_radius_has_a_bracket_of_the_network_that_answers_there(outcome: Outcome) -> None:
    table = outcome.data["accuracies"]
    near, far = outcome.networks
    digits = data.load("digits-sample", "test", limit=N)
    for eps, network in ((0.1, near), (0.2, far), (0.3, far), (0.4, far)):
        rows = {row["kind"]: row for row in table.filter(pl.col("eps") == eps).iter_rows(named=True)}
        assert {row["network"] for row in rows.values()} == {network.name}
        assert rows["certified"]["right"] <= rows["attacked"]["right"] <= rows["clean"]["right"]
        found = IBP().certify(network.model, digits.images, digits.labels, Linf(eps))
        assert rows["certified"]["right"] == int(found.holds.sum())
        pgd = evaluate(Engine(network.model), digits.images, digits.labels, Linf(eps), PGD(n_steps=20), seed=3)
        assert rows["attacked"]["accuracy"] <= pgd.attacked_accuracy + 1 / N
        assert all(row["n"] == N for row in rows.values())
    # Trained for a second each, and yet something is proved where eps is small.
    assert table.filter((pl.col("kind") == "certified") & (pl.col("eps") == 0.1))["right"].item() > 0


def test_rows_have_the_published_values_beside_ours(outcome: Outcome) -> None:
    rows = {row.item: row for row in outcome.rows}
    assert rows["MNIST, linf:0.3: certified"].published == "91.79"
    assert rows["MNIST, linf:0.3: attacked minus certified"].published == "4.24 points"
    table = outcome.data["accuracies"].filter(pl.col("eps") == 0.3)
    ends = {row["kind"]: row["accuracy"] for row in table.iter_rows(named=True)}
    gap = 100 * (ends["attacked"] - ends["certified"])
    assert rows["MNIST, linf:0.3: attacked minus certified"].ours == f"{gap:.1f} points"


@pytest.mark.parametrize("path", sorted(GOWAL2018.recipes.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_fits_its_data_and_trains_by_intervals(path: Path) -> None:
    recipe = recipes.read(path)
    shape = (2, 3, 32, 32) if recipe.data == "cifar10" else (2, 1, 28, 28)
    with torch.device("meta"):
        logits = models.build(recipe.model.name, **recipe.model.arguments)(torch.empty(shape))
    assert logits.shape == (2, 10)
    assert path.read_text().startswith("# ")
    objective = recipe.build_objective()
    assert isinstance(objective, IntervalTraining)
    asked = parse(recipe.threat)
    assert isinstance(asked, Linf)
    assert objective.threat.eps >= asked.eps
    name, _, setting = path.stem.rpartition("-")
    assert setting in ("small", "full")
    assert name in {
        *mnist.NETWORKS.values(),
        *cifar10.NETWORKS.values(),
        *(f"mnist-at-{eps:g}" for eps in training_eps.TRAINED),
    }
    if recipe.data == "cifar10":
        assert cifar10.NETWORKS[next(eps for eps in cifar10.NETWORKS if abs(eps - asked.eps) < 1e-9)] == name


def test_one_network_for_each_radius_in_training_is_certified_at_all(tmp_path: Path) -> None:
    for eps in training_eps.TRAINED:
        text = RECIPE.format(objective="{kind: interval, kappa: 0, ramp: 0.5}").replace("linf:0.1", f"linf:{eps}")
        (tmp_path / f"mnist-at-{eps:g}-small.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_eps, "N_IMAGES", {"small": N})
        outcome = training_eps.ITEM.make(Run("small", 0, Networks(tmp_path, tmp_path / "networks", "small").open))
    table = outcome.data["certified"]
    digits = data.load("digits-sample", "test", limit=N)
    for eps, network in zip(training_eps.TRAINED, outcome.networks, strict=True):
        mine = table.filter(pl.col("trained") == eps).sort("eps")
        assert mine["eps"].to_list() == [0.0, *training_eps.ASKED]
        assert mine["right"].to_list() == sorted(mine["right"].to_list(), reverse=True)
        found = IBP().certify(network.model, digits.images, digits.labels, Linf(0.1))
        assert mine.filter(pl.col("eps") == 0.1)["right"].item() == int(found.holds.sum())
    assert len(outcome.rows) == len(training_eps.TRAINED) ** 2


@pytest.mark.parametrize(("eps", "words"), [(0.3, "linf:0.3"), (8 / 255, "linf:8/255"), (0.1, "linf:0.1")])
def test_a_radius_is_named_as_it_was_meant(eps: float, words: str) -> None:
    assert bracket.label(eps) == words
