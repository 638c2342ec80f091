"""Appendix A: distances, angles, segments and gradients, each against what is known exactly."""

import math
from pathlib import Path

import polars as pl
import pytest
import torch
from paper_toys import keys, linear, opened, pair_of, small_run

from casemate import data
from casemate.losses import cross_entropy
from casemate.papers.madry2018 import landscape, landscape_figure
from casemate.papers.madry2018.landscape_figure import MAXIMA, RANDOM
from casemate.threat import Linf

GREY = torch.full((1, 1, 28, 28), 0.5)


@pytest.fixture
def _smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"N_IMAGES": 2, "N_MAXIMA": 12, "N_SEGMENTS": 5, "N_STEPS": 5, "N_POINTS": 5}.items():
        monkeypatch.setattr(landscape, name, value)


@pytest.mark.parametrize(("shape", "eps", "printed"), [((1, 28, 28), 0.3, 6.86), ((3, 32, 32), 8 / 255, 1.42)])
def test_away_from_the_box_the_expected_distance_is_the_closed_form(
    shape: tuple[int, ...], eps: float, printed: float
) -> None:
    grey = torch.full((1, *shape), 0.5)
    (expected,) = landscape.expected_distance(grey, eps).tolist()
    assert expected == pytest.approx(eps * math.sqrt(2 * math.prod(shape) / 3), rel=1e-12)
    assert expected == pytest.approx(printed, abs=0.005)


def test_at_the_box_the_expected_distance_is_that_of_the_clipped_uniform() -> None:
    # At 0, half of the mass is at 0 and half uniform up to eps: mean eps / 4, mean square eps^2 / 6.
    black, white = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    expected = math.sqrt(2 * 4 * (1 / 6 - 1 / 16)) * 0.3
    assert landscape.expected_distance(black, 0.3).item() == pytest.approx(expected)
    assert landscape.expected_distance(white, 0.3).item() == pytest.approx(expected)


def variance_of_square(x: torch.Tensor, eps: float, n: int) -> float:
    """The variance of the mean squared distance of n independent points over all pairs, which is 2 sum_j s_j^2.

    s^2 has variance (m4 - s^4 (n - 3) / (n - 1)) / n; the moments of the clipped uniform by fine quadrature.
    """
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    total = 0.0
    for value, count in zip(*x.double().flatten().unique(return_counts=True), strict=True):
        z = (value + (2 * u - 1) * eps).clamp(0, 1)
        centred = z - z.mean()
        second, fourth = centred.square().mean(), centred.pow(4).mean()
        total += int(count) * float(4 * (fourth - second**2 * (n - 3) / (n - 1)) / n)
    return total


def test_random_points_are_as_far_apart_as_the_closed_form_says() -> None:
    digit = data.load("digits-sample", limit=1).images
    for x in (GREY, digit):
        points = Linf(0.3).sample(x.expand(200, -1, -1, -1), keys(200))
        found = landscape.distances(landscape.changes(points, x)).square().mean().item()
        expected = landscape.expected_distance(x, 0.3).item() ** 2
        # A sum of over a hundred independent terms, so nearly normal: beyond 6 deviations once in 5e8 seeds.
        assert abs(found - expected) < 6 * math.sqrt(variance_of_square(x, 0.3, 200))
        # And the check is sharp: half a percent of the distance would be seen.
        assert 6 * math.sqrt(variance_of_square(x, 0.3, 200)) < 0.03 * expected


def test_distances_and_angles_are_those_of_every_two_points() -> None:
    delta = torch.randn(5, 7, dtype=torch.float64)
    couples = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    distances = torch.stack([(delta[i] - delta[j]).norm() for i, j in couples])
    cosines = torch.stack([delta[i] @ delta[j] / (delta[i].norm() * delta[j].norm()) for i, j in couples])
    torch.testing.assert_close(landscape.distances(delta), distances)
    torch.testing.assert_close(landscape.angles(delta).deg2rad().cos(), cosines)


@pytest.mark.usefixtures("_smaller")
def test_a_linear_network_has_one_maximum_in_the_corner_its_gradient_points_to() -> None:
    weights = torch.randn(784)
    pair = pair_of(linear(weights), GREY, torch.tensor([0]), 0.01)
    landscape_of = landscape.measured(pair, small_run(Path("unused")))
    maxima = landscape_of["pairs"].filter(pl.col("between") == MAXIMA)
    assert maxima["distance"].to_torch().max() < 1e-5
    points = landscape_of["points"]
    assert points["share_of_eps"].unique().sort().to_list() == [0.25, 0.5, 1.0]
    # Of sign(w) with w: |w|_1 / (|w|_2 sqrt(d)), whatever eps is.
    cosine = (weights.abs().sum() / (weights.norm() * 28)).item()
    assert points["cosine"].to_list() == pytest.approx([cosine] * len(points), rel=1e-3)
    assert (points["inner_product"] > 0).all()
    rows = {row.item: row for row in landscape_figure.claims(pair, landscape_of, 1.0)}
    (negative,) = [row for item, row in rows.items() if "natural: maxima with a negative" in item]
    assert negative.ours == "0.0%"


@pytest.mark.usefixtures("_smaller")
def test_segments_run_from_maximum_to_maximum(toys: Path) -> None:
    pair, run = opened(toys)
    frames = landscape.measured(pair, run)
    for network in pair.engines:
        for image in pair.index.tolist():
            here = (pl.col("network") == network) & (pl.col("image") == image)
            losses = frames["points"].filter(here & (pl.col("share_of_eps") == 1)).sort("start")["loss"].to_torch()
            segments = frames["segments"].filter(here & (pl.col("between") == MAXIMA))
            ends = segments.filter(pl.col("place").is_in([0.0, 1.0])).sort("segment", "place")["loss"].to_torch()
            torch.testing.assert_close(ends, losses[:10], rtol=1e-4, atol=1e-6)
    assert len(frames["segments"]) == 2 * 2 * 2 * 5 * 5
    assert len(frames["pairs"]) == 2 * 2 * 2 * (12 * 11 // 2)
    assert len(frames["points"]) == 2 * 2 * (12 + 5 + 5)


def test_the_profile_of_a_segment_is_measured_against_its_chord_and_random_points() -> None:
    def segment(between: str, number: int, losses: list[float]) -> pl.DataFrame:
        columns = {"segment": number, "place": [0.0, 0.5, 1.0], "loss": losses}
        return pl.DataFrame(columns).select(pl.lit(3).alias("image"), pl.lit(between).alias("between"), pl.all())

    segments = pl.concat(
        [
            segment(MAXIMA, 0, [4.0, 2.0, 4.0]),
            segment(MAXIMA, 1, [2.0, 5.0, 6.0]),
            segment(RANDOM, 0, [1.0, 9.0, 1.0]),
        ]
    )
    facts = landscape_figure._profiles(segments).filter(pl.col("between") == MAXIMA).sort("segment")
    assert facts["middle"].to_list() == [0.5, 1.25]
    assert facts["random"].to_list() == [0.25, 0.25]
    assert facts["highest_at_ends"].to_list() == [True, True]
    assert facts["below_chord"].to_list() == [1.0, 0.0]


@pytest.mark.usefixtures("_smaller", "_no_cifar10")
def test_the_item_has_a_figure_its_data_and_rows(toys: Path) -> None:
    outcome = landscape.make(small_run(toys))
    assert set(outcome.data) == {"points", "pairs", "segments"}
    assert len(outcome.figures["mnist"].axes) == 4
    x = opened(toys)[0].x
    expected = landscape.expected_distance(x, 0.1).mean().item()
    assert f"{expected:.2f} by the closed form" in [
        row.note[: len(f"{expected:.2f} by the closed form")] for row in outcome.rows
    ]
    # What lies inside the ball is what was measured: no two points of it are further apart than its diameter.
    assert outcome.data["pairs"]["distance"].to_torch().max() <= 2 * 0.1 * 28
    pair, _ = opened(toys)
    ends = outcome.data["points"].filter((pl.col("network") == "natural") & (pl.col("share_of_eps") == 1))
    at_image = cross_entropy(pair.engines["natural"].logits(pair.x), pair.y)
    assert ends.group_by("image", maintain_order=True).agg(pl.col("loss").min())["loss"].to_torch().gt(at_image).all()
