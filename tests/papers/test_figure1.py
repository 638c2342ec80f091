"""Figure 1: its paths are those of PGD, and its claims are measured right."""

from pathlib import Path

import polars as pl
import pytest
import torch
from paper_toys import opened, small_run

from casemate.attacks import PGD, loss_path
from casemate.losses import cross_entropy
from casemate.papers.madry2018 import figure1
from casemate.papers.madry2018.pair import NATURAL, TRAINED, start_keys
from casemate.rng import fold

pytestmark = pytest.mark.usefixtures("_no_cifar10", "_smaller")


@pytest.fixture
def _smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"N_IMAGES": 2, "N_STARTS": 3, "N_STEPS": 10}.items():
        monkeypatch.setattr(figure1, name, value)


def values(frame: pl.DataFrame, network: str, image: int, start: int) -> torch.Tensor:
    own = frame.filter((pl.col("network") == network) & (pl.col("image") == image) & (pl.col("start") == start))
    assert own["step"].to_list() == list(range(11))
    return own["loss"].to_torch()


def test_the_paths_are_those_of_pgd_from_points_inside_the_ball(toys: Path) -> None:
    pair, run = opened(toys)
    frame = figure1.paths(pair, run)
    assert len(frame) == 2 * 2 * 3 * 11
    for network, engine in pair.engines.items():
        for place, image in enumerate(pair.index.tolist()):
            keys = start_keys(run.seed, image, torch.arange(3))
            x, y = pair.x[[place] * 3], pair.y[[place] * 3]
            path = loss_path(engine, x, y, pair.threat, keys=keys, attack=PGD(n_steps=10, step_size=0.01))
            start = pair.threat.sample(x, fold(keys, "start"))
            assert pair.threat.contains(start, x).all()
            assert (pair.threat.measure(start, x) > 0.05).all()
            at_start = cross_entropy(engine.logits(start), y)
            for number in range(3):
                found = values(frame, network, image, number)
                torch.testing.assert_close(found, path[:, number])
                torch.testing.assert_close(found[0], at_start[number], rtol=1e-4, atol=1e-6)
                assert found[-1] > found[0]


def test_both_networks_start_from_the_same_points_and_another_seed_from_others(toys: Path) -> None:
    assert torch.equal(start_keys(0, 7, torch.arange(50)), start_keys(0, 7, torch.arange(50)))
    seen = torch.cat([start_keys(seed, image, torch.arange(50)) for seed in (0, 1) for image in (7, 8)])
    assert len(seen.unique()) == 200


def test_the_item_has_a_figure_its_data_and_rows(toys: Path) -> None:
    outcome = figure1.make(small_run(toys))
    assert set(outcome.figures) == {"mnist"}
    texts = [text.get_text() for text in outcome.figures["mnist"].findobj(lambda artist: hasattr(artist, "get_text"))]
    facts = " ".join(texts).replace("\n", " ")
    assert "SMALL SETTING" in facts
    assert "n = 2 test images" in facts
    assert "seed 0" in facts
    assert "mnist-pgd-small" in facts
    lines = [line for axes in outcome.figures["mnist"].axes for line in axes.lines]
    assert len(lines) == 2 * 2 * 3
    drawn = torch.tensor([line.get_ydata()[-1] for line in lines])
    ends = outcome.data["paths"].filter(pl.col("step") == 10)["loss"].to_torch()
    torch.testing.assert_close(drawn.sort().values, ends.sort().values)
    assert [network.name for network in outcome.networks] == ["mnist-natural-small", "mnist-pgd-small"]


def test_what_cannot_be_made_for_want_of_data_has_a_row_that_says_so(toys: Path) -> None:
    (row,) = [row for row in figure1.make(small_run(toys)).rows if row.item == "CIFAR-10"]
    assert row.ours == "not made"
    assert "casemate data cifar10" in row.note


def fabricated(natural: list[list[float]], trained: list[list[float]]) -> pl.DataFrame:
    """One image; each start has the loss half-way and at the end."""
    rows = [
        {"data": "mnist", "network": network, "image": 4, "start": start, "step": step, "loss": loss}
        for network, starts in ((NATURAL, natural), (TRAINED, trained))
        for start, (middle, end) in enumerate(starts)
        for step, loss in ((5, middle), (10, end))
    ]
    return pl.DataFrame(rows)


def test_the_claims_are_those_of_the_numbers(toys: Path) -> None:
    pair, _ = opened(toys)
    frame = fabricated([[99.0, 99.0], [99.0, 101.0]], [[1.5, 2.0], [1.5, 2.0]])
    by_item = {row.item.partition(": ")[2]: row for row in figure1.claims(pair, frame)}
    growth = [row for row in figure1.claims(pair, frame) if "growth" in row.item]
    assert growth[0].ours.startswith("1.00%")
    assert growth[0].note == "holds for 1 of 1 images"
    assert growth[1].ours.startswith("25.00%")
    assert growth[1].note == "holds for 0 of 1 images"
    assert by_item["median final loss, natural over PGD-trained"].ours.startswith("50 ")
    spreads = [row.ours for row in figure1.claims(pair, frame) if "variation" in row.item]
    # The standard deviation of 99 and 101 is the root of 2.
    assert spreads[0].startswith("1.41%")
    assert spreads[1].startswith("0.00%")
