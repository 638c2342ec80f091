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
from casemate.papers.gowal2018 import mnist
from casemate.papers.gowal2018.items import GOWAL2018
from casemate.papers.item import Outcome, Run
from casemate.papers.networks import Networks
from casemate.threat import Linf
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
        patch.setattr(mnist, "N_IMAGES", {"small": N})
        return mnist.make(Run("small", 0, Networks(folder, folder / "networks", "small").open))


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
    with torch.device("meta"):
        logits = models.build(recipe.model.name, **recipe.model.arguments)(torch.empty(2, 1, 28, 28))
    assert logits.shape == (2, 10)
    assert path.read_text().startswith("# ")
    objective = recipe.build_objective()
    assert isinstance(objective, IntervalTraining)
    assert recipe.threat == ("linf:0.1" if "near" in path.stem else "linf:0.3")
    assert objective.threat.eps >= recipes.parse(recipe.threat).eps
    if path.stem.endswith("full"):
        # The paper's schedule: 60,000 steps, of which 2,000 without eps and 10,000 of growth.
        steps = (60_000 - recipe.hold_out) // recipe.batch_size * recipe.epochs
        assert steps == pytest.approx(60_000, rel=0.01)
        assert objective.warm_up * steps == pytest.approx(2_000, rel=0.02)
        assert objective.ramp * steps == pytest.approx(10_000, rel=0.02)
