"""Appendix E as an item: what it says of layers made by hand, and of toys."""

import polars as pl
import pytest
import torch
from grid_toys import network
from torch import nn

from casemate import data
from casemate.papers.evaluation import Evaluation
from casemate.papers.item import Item, Row, Run
from casemate.papers.madry2018 import filters, filters_claims
from casemate.papers.madry2018.filters_claims import FIRST, OUTPUT, SECOND, biases_of, weights_of
from casemate.papers.madry2018.items import MADRY2018
from casemate.papers.madry2018.pair import NATURAL, TRAINED
from casemate.threat import Linf

N = 30
DIGITS = data.load("digits-sample", "test", limit=N)
JUDGED = Evaluation(Linf(0.3), DIGITS.images, DIGITS.labels, 0)


@pytest.fixture(autouse=True)
def _smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(filters.N_IMAGES, "small", N)


def convolutional() -> nn.Sequential:
    """Six filters, dense as they are drawn, and two layers behind them."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.Conv2d(6, 4, 5, stride=4), nn.ReLU(), nn.Flatten(),
        nn.Linear(144, 10),
    )  # fmt: skip


def with_thresholds() -> nn.Sequential:
    """Filters of one weight with thresholds 0.3, 0.7 and 0.5, a dead one, one of its bias alone, and a dense one."""
    made = convolutional()
    first, second, output = made[0], made[2], made[5]
    with torch.no_grad():
        first.weight[:5] = 0
        first.weight[0, 0, 2, 2], first.bias[0] = 0.5, -0.15
        first.weight[1, 0, 0, 1], first.bias[1] = 2.0, -1.4
        first.weight[2, 0, 4, 4], first.bias[2] = 1.0, -0.5
        first.bias[3], first.bias[4] = -0.1, 0.1
        second.weight[0, 0, 0, 0] = -3.0
        output.weight *= 3
        output.bias.copy_(torch.linspace(0.05, 0.175, 10))
    return made


def frames_of(trained: nn.Module) -> dict[str, pl.DataFrame]:
    models = {NATURAL: ("mnist-natural", convolutional()), TRAINED: ("mnist-pgd", trained)}
    return filters.measured({name: network(*toy) for name, toy in models.items()}, JUDGED)


def rows_of(frames: dict[str, pl.DataFrame]) -> dict[str, Row]:
    return {row.item.removeprefix("MNIST, "): row for row in filters_claims.rows(frames, JUDGED)}


def test_thresholds_that_are_there_are_found() -> None:
    rows = rows_of(frames_of(with_thresholds()))
    one = rows["PGD-trained: filters of the first layer with one weight"]
    assert (one.published, one.ours) == ("3 of 32; the other 29 are not used", "3 of 6")
    assert one.note.startswith("there are some: holds")
    assert ": 1, 1, 1, 0, 0, " in one.note
    at = rows["PGD-trained: thresholds -bias / weight of its filters with one weight"]
    assert at.ours == "0.300, 0.500, 0.700"
    assert at.note == "2 of 3 within 0.05 of eps = 0.3 or 1 - eps = 0.7"
    dead = rows["PGD-trained: dead filters of the first layer, whose ReLU lets nothing by"]
    assert (dead.published, dead.ours) == ("29 of 32 are not used", "1 of 6")
    # The dead one does not vary, and neither does one that answers with its bias.
    used = rows["PGD-trained: filters of the first layer in use, whose answers vary"]
    assert (used.published, used.ours) == ("3 of 32", "4 of 6")
    second = rows["PGD-trained: range of the weights of the second layer"]
    assert second.ours.startswith("-3.00 to ")
    # All but the one of 3 are below a twelfth.
    assert second.note.startswith("99.8% of the weights")
    output = rows["MNIST: standard deviation of the weights of the output layer, natural and PGD-trained"]
    assert output.note.startswith("larger: holds; ")
    biases = rows["PGD-trained: biases of the classes, least to largest"]
    assert biases.ours == "0.050 to 0.175"


def test_what_is_not_there_is_not_claimed() -> None:
    rows = rows_of(frames_of(convolutional()))
    one = rows["PGD-trained: filters of the first layer with one weight"]
    assert one.ours == "0 of 6"
    assert one.note.startswith("there are some: does not hold")
    assert rows["natural: filters of the first layer with one weight"].note.startswith("none: holds")
    at = rows["PGD-trained: thresholds -bias / weight of its filters with one weight"]
    assert (at.ours, at.note.partition(" within")[0]) == ("no such filters", "0 of 0")


def test_the_frames_hold_every_weight_of_three_layers() -> None:
    trained = with_thresholds()
    frames = frames_of(trained)
    for title, place in ((FIRST, 0), (SECOND, 2), (OUTPUT, 5)):
        assert weights_of(frames, TRAINED, title).to_list() == trained[place].weight.flatten().tolist()
        assert biases_of(frames, TRAINED, title).to_list() == trained[place].bias.tolist()
    own = frames["filters"].filter(pl.col("network") == TRAINED)
    let_by = trained[0](DIGITS.images).clamp(min=0).transpose(0, 1).flatten(1)
    assert own["fires"].to_list() == pytest.approx((let_by > 0).double().mean(dim=1).tolist())
    assert own["spread"].to_list() == pytest.approx(let_by.std(dim=1).tolist(), rel=1e-3, abs=1e-6)


def test_the_item_has_a_figure_its_data_and_rows() -> None:
    outcome = filters.make(Run("small", 0, lambda name: network(str(name), convolutional())))
    assert set(outcome.data) == {"filters", "weights"}
    assert [network.name for network in outcome.networks] == ["mnist-natural-small", "mnist-pgd-small"]
    figure = outcome.figures["mnist"]
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    facts = " ".join(texts).replace("\n", " ")
    assert "SMALL SETTING" in facts
    assert f"n = {N} test images" in facts
    mosaics = {axes.get_title(loc="left"): axes.images[0].get_array() for axes in figure.axes if axes.images}
    for name, opened in zip((NATURAL, TRAINED), outcome.networks, strict=True):
        weight = opened.model[0].weight.detach()  # type: ignore[index]
        mosaic = mosaics[f"first layer, {name}"]
        # Six filters of 5 x 5, in two rows of four and an empty line between two.
        assert mosaic.shape == (12, 24)
        for place, (top, left) in enumerate(((0, 0), (0, 6), (0, 12), (0, 18), (6, 0), (6, 6))):
            assert (mosaic[top : top + 5, left : left + 5] == weight[place, 0].numpy()).all()
        assert (~mosaic.mask).sum() == weight.numel()


def test_the_item_is_listed() -> None:
    assert any(isinstance(item, Item) and item.name == "filters" for item in MADRY2018.items)
