"""The comparison of domains measures what the certifiers say, and the recipes are the published goals."""

import math
from pathlib import Path

import polars as pl
import pytest
import torch
from paper_toys import RECIPE

from casemate import data, models
from casemate.bounds import IBP, ByZonotopes
from casemate.papers import bracket
from casemate.papers.item import Run
from casemate.papers.mirman2018 import domains, mnist
from casemate.papers.mirman2018.items import MIRMAN2018
from casemate.papers.networks import Networks
from casemate.threat import Linf, parse
from casemate.training import recipe as recipes
from casemate.training.diffai import DiffAI

GOAL = '{kind: diffai, goal: "LinMix(Point, Box(Lin(0, eps, 2)), 0.5)"}'


def toy_networks(folder: Path) -> Run:
    for name, eps in (("mnist-near", 0.1), ("mnist-far", 0.3)):
        text = RECIPE.format(objective=GOAL).replace("linf:0.1", f"linf:{eps}").replace("epochs: 1", "epochs: 4")
        (folder / f"{name}-small.yaml").write_text(text.replace("hold_out: 1000", "hold_out: 100"))
    return Run("small", 0, Networks(folder, folder / "networks", "small").open)


def test_the_cost_of_a_domain_is_that_of_its_certificate(tmp_path: Path) -> None:
    network = toy_networks(tmp_path).network("mnist-near")
    digits = data.load("digits-sample", "test", limit=20)
    x, y = digits.images, digits.labels
    for name in ("intervals", "hSwitch", "CROWN"):
        certifier = domains.DOMAINS[name]
        cost = domains.costs(certifier, network.model, x, y, torch.get_num_threads())
        expected = certifier.certify(network.model, x, y, Linf(domains.EPS))
        torch.testing.assert_close(torch.tensor(cost.margins, dtype=torch.float64), expected.margin)
        row = domains.row_of(name, cost)
        assert row["right"] == int(expected.holds.sum())
        assert row["n"] == 20
        assert cost.seconds > 0
        assert cost.mebibytes >= 0 or math.isnan(cost.mebibytes)


def test_the_item_has_a_row_for_each_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "N_IMAGES", {"small": 4})
    monkeypatch.setattr(domains, "DOMAINS", {"intervals": IBP(), "hBox": ByZonotopes(relu="box", hybrid=True)})
    outcome = domains.ITEM.make(toy_networks(tmp_path))
    table = outcome.data["domains"]
    assert table["domain"].to_list() == ["intervals", "hBox"]
    # Hybrid zonotopes with such ReLUs are never looser than intervals.
    assert table["margin"][1] >= table["margin"][0] - 1e-4
    assert len(outcome.rows) == 2


def test_the_bracket_is_closed_from_below_by_both_certifiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bracket, "N_IMAGES", {"small": 12})
    outcome = mnist.ITEM.make(toy_networks(tmp_path))
    digits = data.load("digits-sample", "test", limit=12)
    for eps, network in zip((0.1, 0.3), outcome.networks, strict=True):
        table = outcome.data["accuracies"].filter(pl.col("eps") == eps)
        rows = {row["kind"]: row for row in table.iter_rows(named=True)}
        proved = torch.zeros(12, dtype=torch.bool)
        for certifier in mnist.BRACKET.certifiers:
            proved |= certifier.certify(network.model, digits.images, digits.labels, Linf(eps)).holds
        assert rows["certified"]["right"] == int(proved.sum())
        assert rows["certified"]["right"] <= rows["attacked"]["right"] <= rows["clean"]["right"]
        assert rows["certified"]["published"] == mnist.PUBLISHED[eps]["certified"]


@pytest.mark.parametrize("path", sorted(MIRMAN2018.recipes.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_trains_conv_small_by_a_goal(path: Path) -> None:
    recipe = recipes.read(path)
    with torch.device("meta"):
        logits = models.build(recipe.model.name, **recipe.model.arguments)(torch.empty(2, 1, 28, 28))
    assert logits.shape == (2, 10)
    assert path.read_text().startswith("# ")
    assert isinstance(recipe.build_objective(), DiffAI)
    assert parse(recipe.threat) == Linf(0.1 if "near" in path.stem else 0.3)
