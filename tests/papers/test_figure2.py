"""Figure 2: every start has its own final loss, however many are tried at a time."""

from pathlib import Path

import polars as pl
import pytest
import torch
from paper_toys import opened, small_run

from casemate import rng
from casemate.papers.madry2018 import figure1, figure2
from casemate.papers.madry2018.pair import NATURAL, TRAINED, start_keys

pytestmark = pytest.mark.usefixtures("_no_cifar10", "_smaller")


@pytest.fixture
def _smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure2, "N_IMAGES", 2)
    monkeypatch.setitem(figure2.N_STARTS, "small", 20)
    monkeypatch.setitem(figure2.N_STEPS, "small", 8)


def test_a_loss_does_not_depend_on_how_many_starts_are_tried_at_a_time(
    toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, run = opened(toys)
    together = figure2.final_losses(pair, run)
    monkeypatch.setattr(figure2, "AT_A_TIME", 7)
    assert figure2.final_losses(pair, run).equals(together)
    assert together.group_by("network", "image").len()["len"].to_list() == [20] * 4


def test_no_start_is_tried_twice() -> None:
    # By their points, since the losses of two starts may round to the same float32.
    starts = [start_keys(0, image, torch.arange(1000)) for image in (0, 1)]
    points = rng.uniform(torch.cat(starts), (4,))
    assert len(points.unique(dim=0)) == 2000


def test_the_first_starts_are_those_of_figure_1(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure1, "N_STARTS", 3)
    monkeypatch.setattr(figure1, "N_STEPS", 8)
    pair, run = opened(toys)
    ends = figure1.paths(pair, run).filter(pl.col("step") == 8)["loss"].to_torch()
    first = figure2.final_losses(pair, run).filter(pl.col("start") < 3)["loss"].to_torch()
    torch.testing.assert_close(first, ends)


def test_the_histograms_hold_every_start(toys: Path) -> None:
    outcome = figure2.make(small_run(toys))
    panels = outcome.figures["mnist"].axes
    assert len(panels) == 2
    assert [sum(bar.get_height() for bar in axes.patches) for axes in panels] == [40, 40]
    assert panels[0].get_yscale() == "log"
    assert len(outcome.data["final-losses"]) == 80


def test_the_claims_are_those_of_the_numbers(toys: Path) -> None:
    pair, _ = opened(toys)
    losses = {(NATURAL, 0): [9, 10, 11], (NATURAL, 1): [9, 10, 20], (TRAINED, 0): [1, 1, 1], (TRAINED, 1): [1, 1, 9.5]}
    frame = pl.concat(
        pl.DataFrame({"network": network, "image": image, "loss": [float(value) for value in values]})
        for (network, image), values in losses.items()
    )
    rows = figure2.claims(pair, frame)
    # Of 9, 10 and 11 the standard deviation is 1; of 9, 10 and 20 it is the root of 37, and the mean 13.
    spread = (0.1, 37**0.5 / 13)
    assert rows[0].ours == f"{sum(spread) / 2:.2%} ({spread[0]:.2%} to {spread[1]:.2%})"
    assert rows[1].ours == "at most 2"
    assert rows[1].note == "3 starts for each of 2 images"
    assert rows[3].ours == "at most 9.5"
    assert rows[4].ours == "for 1 of 2 images"
