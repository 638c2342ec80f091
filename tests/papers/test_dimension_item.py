"""The item on the dimension of the input as a whole, on toys, and the recipes of its networks."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import nn

from casemate import data, models
from casemate.attacks import DDN
from casemate.papers.item import Item, Outcome, Run, Setting
from casemate.papers.madry2018 import dimension
from casemate.papers.madry2018.dimension import STUDIES, TRAININGS
from casemate.papers.madry2018.items import MADRY2018
from casemate.papers.madry2018.pair import NATURAL, TRAINED
from casemate.papers.madry2018.resizes import Resize
from casemate.papers.networks import Network, Networks, Variant
from casemate.training import recipe as recipes

N = 6
# Those that the answers speak of.
FEW = (Resize("area", 2), Resize("area", 4), Resize("nearest", 4), Resize("bicubic", 4))


def nearest_mean(asked: str | Variant) -> Network:
    """A network for its size: linear, and right where the mean of the own class is the nearest; nobody trained it."""
    variant = Variant(asked) if isinstance(asked, str) else asked
    side = int((variant.data or "mnist@28").partition("@")[2])
    digits = data.load(f"digits-sample@{side}", "train", limit=1000)
    means = torch.stack([digits.images[digits.labels == label].mean(dim=0).flatten() for label in range(10)])
    layer = nn.Linear(side * side, 10)
    with torch.no_grad():
        layer.weight.copy_(2 * means)
        layer.bias.copy_(-means.square().sum(dim=1))
    content = {
        "data": digits.name,
        "model": {"name": "small-cnn", "arguments": {"width": 2, "size": side}},
        "objective": {"kind": "natural"},
        "threat": "linf:0.1",
    }
    model = nn.Sequential(nn.Flatten(), layer).eval()
    return Network(f"{variant.name}-small", model, recipes.from_dict(content, "toy"), {}, Path("toy"), False)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dimension.pair, "at_hand", lambda name: False)
        # The toys name another architecture, which draws its weights by their numbers of inputs anyway.
        patch.setattr(dimension, "STUDIES", (replace(STUDIES[0], fresh={}, tolerance=1 / 16), STUDIES[1]))
        patch.setattr(dimension, "N_IMAGES", {"small": N})
        patch.setattr(dimension, "N_STEPS", 5)
        patch.setattr(dimension, "NEAREST", DDN(n_steps=100))
        patch.setattr(dimension, "resizes", lambda factors: FEW)
        patch.setattr(dimension, "N_FRESH", 2)
        return dimension.make(Run("small", 0, nearest_mean))


def test_every_network_and_resize_has_its_images(outcome: Outcome) -> None:
    assert {key: len(frame) for key, frame in outcome.data.items()} == {
        "sizes": 2 * 3 * N,
        "resizes": 2 * 4 * N,
        "fresh": 3 * 2,
        "reach": 4 * 2,
    }
    assert [network.name for network in outcome.networks] == [
        f"mnist-{kind}{size}-small"
        for kind in ("natural", "pgd")
        for size in ("-scale9-size14-on-mnist@14", "", "-scale2-size56-on-mnist@56")
    ]


def test_what_is_right_and_in_reach_is_told_from_what_stands(outcome: Outcome) -> None:
    for frame in (outcome.data["sizes"], outcome.data["resizes"]):
        assert 0 < frame["right"].sum() < len(frame)
        for row in frame.iter_rows(named=True):
            assert (row["linf"] > 0) == (row["l2"] > 0) == row["right"]
            assert row["standing"] == (row["linf"] > 0.1)


def test_images_of_the_own_size_are_those_of_the_data(outcome: Outcome) -> None:
    digits = data.load("digits-sample", "test", limit=N)
    right = nearest_mean("mnist-natural").model(digits.images).argmax(dim=1) == digits.labels
    own = outcome.data["sizes"].filter((pl.col("network") == NATURAL) & (pl.col("side") == 28))
    assert own["right"].to_list() == right.tolist()


def test_area_pooling_in_front_changes_nothing_but_the_l2_distance(outcome: Outcome) -> None:
    own = outcome.data["sizes"].filter((pl.col("network") == TRAINED) & (pl.col("side") == 28))
    behind = outcome.data["resizes"].filter(
        (pl.col("network") == TRAINED) & (pl.col("resize") == str(Resize("area", 2)))
    )
    assert behind["right"].to_list() == own["right"].to_list()
    assert behind["gradient"].to_list() == pytest.approx(own["gradient"].to_list(), rel=1e-3)
    assert behind["l2"].to_list() == pytest.approx((2 * own["l2"]).to_list(), rel=0.02)


def test_the_figure_has_the_answers_below_it_and_the_rows_have_them_too(outcome: Outcome) -> None:
    figure = outcome.figures["mnist"]
    assert len(figure.axes) == 6
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    facts = " ".join(texts).replace("\n", " ")
    assert "SMALL SETTING" in facts
    assert f"n = {N} test images" in facts
    questions = [row for row in outcome.rows if row.item.endswith("?")]
    assert len(questions) == 2
    for row in questions:
        assert row.ours in facts
        assert f"n = {N} test images" in row.note
    (weights,) = [row for row in outcome.rows if "weights of the networks" in row.item]
    assert len(weights.ours.split(", ")) == 3
    (absent,) = [row for row in outcome.rows if row.item == "CIFAR-10"]
    assert "casemate data cifar10" in absent.note


@pytest.mark.parametrize("setting", ["small", "full"])
@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.dataset.name)
def test_the_networks_of_a_study_differ_in_the_size_of_their_images_alone(
    study: dimension.Study, setting: Setting
) -> None:
    networks = Networks(MADRY2018.recipes, Path("unused"), setting)
    for kind in TRAININGS:
        read = [networks.recipe(study.network(kind, side, setting)) for side in study.sides]
        half, own, double = read
        assert (half.data, double.data) == tuple(f"{own.data}@{side}" for side in (study.sides[0], study.sides[2]))
        for other in (half, double):
            assert other.model_copy(update={"data": own.data, "model": own.model}) == own
            assert other.model.name == own.model.name
        with torch.device("meta"):
            built = [models.build(recipe.model.name, **recipe.model.arguments) for recipe in read]
        weights = [sum(parameter.numel() for parameter in model.parameters()) for model in built]
        assert weights == pytest.approx([weights[1]] * 3, rel=0.04)
        # Whose initialisation the untrained networks ask for is one that the architecture has.
        with torch.device("meta"):
            models.build(own.model.name, **{**own.model.arguments, **study.fresh})


def test_the_item_is_listed() -> None:
    assert any(isinstance(item, Item) and item.name == "dimension" for item in MADRY2018.items)
