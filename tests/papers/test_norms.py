"""Distances in two norms against closed forms, and what the answer makes of them."""

import math
from collections.abc import Mapping
from dataclasses import replace

import polars as pl
import pytest
import torch
from grid_toys import nearest_mean
from matplotlib.figure import Figure
from paper_toys import linear

from casemate import data
from casemate.attacks import DDN, PGD, HopSkipJump, Nearest, Worst
from casemate.attacks.smallest import Smallest
from casemate.papers.evaluation import Evaluation
from casemate.papers.madry2018 import curve, norms, norms_answer, norms_claims
from casemate.papers.madry2018.norms_facts import EPS, Facts, facts, gain
from casemate.papers.madry2018.pair import NATURAL
from casemate.papers.madry2018.radii import MATCHES, SAME_NUMBER
from casemate.threat import L2, Linf

VALUES = 784


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for linear networks."""
    monkeypatch.setattr(norms, "N_RADII", 64)
    monkeypatch.setattr(norms, "IN_LINF", Worst((PGD(n_steps=4, loss="margin"), PGD(n_steps=4))))
    monkeypatch.setattr(norms, "IN_L2", PGD(n_steps=4))
    monkeypatch.setattr(norms, "NEAREST", DDN(n_steps=100))
    monkeypatch.setattr(norms, "DECISIONS", HopSkipJump(n_steps=2, n_starts=4))


@pytest.mark.usefixtures("_short")
def test_distances_are_those_of_a_linear_network() -> None:
    weights = torch.randn(64)
    weights -= weights.mean()
    # Grey images a little on the side of class 0; label 1 is wrong for the last.
    x = 0.5 - 0.05 * torch.rand(5, 1, 1, 1) * weights.sign().view(1, 1, 8, 8)
    y = torch.tensor([0, 0, 0, 0, 1])
    found = norms.attacked(linear(weights), Evaluation(Linf(0.1), x, y, 0), 2)
    ahead = -(x[:4].double().flatten(1) @ weights.double())
    assert found["right"].to_list() == [True] * 4 + [False]
    assert found["linf"].to_list()[:4] == pytest.approx((ahead / weights.abs().sum()).tolist(), abs=1 / 64)
    assert found["l2"].to_list()[:4] == pytest.approx((ahead / weights.norm()).tolist(), rel=0.02)
    assert found["linf"][4] == found["l2"][4] == 0
    # The nearest change in l2 is along the weights.
    kappa = weights.norm() / (weights.abs().max() * math.sqrt(64))
    assert found["l2_kappa"].to_list()[:4] == pytest.approx([kappa.item()] * 4, rel=0.05)
    assert found["l2_share"].to_list()[:4] == pytest.approx([1] * 4, abs=0.05)
    assert found["l2_HopSkipJump"].is_null().to_list() == [False, False, True, True, True]
    for name in ("PGD", "DDN", "HopSkipJump"):
        alone = found[f"l2_{name}"].drop_nulls()
        assert (alone >= found["l2"][: len(alone)] - 1e-12).all()


@pytest.mark.usefixtures("_short")
def test_no_distance_contradicts_the_other_norm() -> None:
    """|d|_inf <= |d|_2 <= sqrt(n) |d|_inf, so that the nearest points of one norm bound the distances in the other."""
    digits = data.load("digits-sample", "test", limit=12)
    found = norms.attacked(nearest_mean(0), Evaluation(Linf(0.1), digits.images, digits.labels, 0), 3)
    assert 0 < found["right"].sum() < 12
    assert ((found["linf"] > 0) == found["right"]).all()
    assert (found["linf"] <= found["l2"]).all()
    assert (found["l2"] <= math.sqrt(VALUES) * found["linf"]).all()
    moved = found.filter(pl.col("right"))
    for column in ("linf_kappa", "l2_kappa"):
        assert moved[column].is_between(1 / math.sqrt(VALUES), 1).all()


def test_the_nearest_point_is_chosen_in_each_norm_among_the_points_of_all_searches() -> None:
    x = torch.full((3, 1, 2, 2), 0.5)
    spread, single = x.clone(), x[:2].clone()
    # Shorter in linf, and shorter in l2.
    spread[:2] += 0.2
    single[0, 0, 0, 0] += 0.3
    distance = torch.tensor([0.2, 0.2, math.inf], dtype=torch.float64)
    everything = Smallest(spread, distance)
    # About the first two images alone, and without an answer for the second.
    first = Nearest(single, torch.tensor([0.3, math.inf], dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
    for order in ([everything, first], [first, everything]):
        points, away = norms.nearest_of(order, x, Linf(1))
        assert away.tolist() == pytest.approx([0.2, 0.2, math.inf])
        assert torch.equal(points[:2], spread[:2])
        points, away = norms.nearest_of(order, x, L2(1))
        assert away.tolist() == pytest.approx([0.3, 0.4, math.inf])
        assert torch.equal(points[0], single[0])
        assert torch.equal(points[2], x[2])


Lengths = tuple[list[float], list[float]]
RADII = {eps: {name: match(eps, VALUES) for name, match in MATCHES.items()} for eps in EPS}


def fabricated(distances: Mapping[str, Lengths]) -> Facts:
    """The images of each network have these distances in linf and l2; 0 where it is wrong."""
    frames = []
    for network, (linf, l2) in distances.items():
        columns = {"linf": linf, "l2": l2, "l2_PGD": [1.5 * each for each in l2], "l2_DDN": l2, "l2_HopSkipJump": l2}
        for norm in ("linf", "l2"):
            columns |= {f"{norm}_kappa": [0.5] * len(linf), f"{norm}_share": [0.25] * len(linf)}
        frame = pl.DataFrame(columns).with_columns(right=pl.col("linf") > 0, network=pl.lit(network))
        frames.append(frame.with_row_index("image"))
    return facts(pl.concat(frames), RADII)


def alike(**lengths: tuple[float, float]) -> dict[str, Lengths]:
    """Ten images at the same distances for each network, whose name has an underscore for the colon."""
    return {name.replace("_", ":"): ([linf] * 10, [l2] * 10) for name, (linf, l2) in lengths.items()}


def test_medians_count_the_images_without_an_answer_and_the_wrong_ones() -> None:
    inf = math.inf
    found = fabricated(
        {
            NATURAL: ([0.0, 0.1, 0.2], [0.0, 1.0, inf]),
            "linf:0.3": ([0.1, 0.4, inf], [inf, 3.0, 2.0]),
            "l2:2": ([inf, inf, 0.3], [0.0, 0.0, 9.0]),
        }
    )
    natural, linf, l2 = (found.of(network) for network in found.networks)
    assert (natural["linf"], natural["l2"], natural["linf_gain"], natural["l2_gain"]) == (0.1, 1.0, 1.0, 1.0)
    assert (linf["linf"], linf["l2"]) == (0.4, 3.0)
    assert (linf["linf_gain"], linf["l2_gain"]) == (pytest.approx(4), 3)
    # Further than anything that was tried is no number to divide, nor is the distance of wrong images.
    assert l2["linf"] == inf
    assert math.isnan(l2["linf_gain"])
    assert l2["l2"] == 0
    assert math.isnan(l2["l2_gain"])
    assert natural["clean"] == pytest.approx(2 / 3)
    assert math.isnan(gain(1.0, 0.0))
    assert found.standing(NATURAL, "l2", 0.5).right == 2
    assert found.standing(NATURAL, "l2", 1.0).right == 1
    pair = found.pair("linf:0.3", 0.3, "typical point of the cube")
    assert (pair["linf"], pair["l2"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert found.apart(0.3, SAME_NUMBER) == (pytest.approx(2 / 3), NATURAL)


def test_searches_are_compared_on_the_images_on_which_all_ran() -> None:
    found = fabricated({NATURAL: ([0.1] * 4, [1.0, 2.0, 3.0, 4.0])})
    column = pl.Series("l2_HopSkipJump", [1.0, 2.0, 3.0, None])
    found = replace(found, distances=found.distances.with_columns(column))
    assert found.alone(NATURAL) == {"PGD": 3.0, "DDN": 2.0, "HopSkipJump": 2.0, "l2": 2.0, "n": 3}


def off_norm() -> Facts:
    """Half of what stands at linf 0.3 also stands at the l2 radius of equal volume, and at no other match more."""
    return fabricated(
        {
            NATURAL: ([0.1] * 10, [1.2] * 10),
            "linf:0.3": ([0.35] * 10, [1.8, 4.6] * 5),
            "l2:2": ([0.15] * 10, [2.4] * 10),
        }
    )


def test_the_answer_is_no_where_every_match_is_off() -> None:
    answer = norms_answer.on_radii(off_norm())
    assert answer.startswith("No, and none of the matches makes it so.")
    assert "the natural network leaves 0.0% of the images standing in linf and 100.0% in l2" in answer
    assert "4.85 (typical point of the cube), 4.09 (equal volume), 8.40 (corner of the cube)" in answer
    assert "Of the matches, equal volume (l2 4.09) is the one" in answer
    assert "by up to 50 points there: linf:0.3 leaves 100.0% in linf and 50.0% in l2" in answer
    assert "(0.1 in linf, 1.2 in l2)" in answer
    assert "linf:0.3 3.50 and 2.67, l2:2 1.50 and 2.00" in answer
    assert answer.endswith("Each network gains more in the norm that it was trained on.")


def test_the_answer_follows_numbers_that_agree_on_a_match() -> None:
    length = math.sqrt(VALUES / 3)
    fair = fabricated(alike(natural=(0.1, 0.1 * length), linf_1=(0.4, 0.4 * length), l2_5=(0.2, 0.25 * length)))
    answer = norms_answer.on_radii(fair)
    assert answer.startswith("Not as they are, but by this match: typical point of the cube.")
    assert "typical point of the cube (l2 4.85) is the one" in answer
    assert "differ by up to 0 points" in answer
    everywhere = norms_answer.on_radii(fabricated(alike(natural=(0.9, 9.0), linf_1=(1.0, 9.5))))
    assert everywhere.startswith("By these networks it is.")


def test_gains_in_the_other_norm_are_told_and_a_network_that_learnt_nothing_has_none() -> None:
    networks = alike(natural=(0.1, 1.0), linf_1=(0.2, 1.5), l2_1=(0.4, 2.0), l2_2=(0.4, 3.8), l2_4=(0.0, 0.0))
    answer = norms_answer.on_radii(fabricated(networks))
    assert answer.endswith("The gain is more in linf for linf:1 and l2:1, as much in both for l2:2.")
    assert "l2:4 no number and no number" in answer
    assert "nan" not in answer
    none = norms_answer.on_radii(fabricated(alike(natural=(0.0, 0.0), l2_2=(0.4, 3.0))))
    assert none.endswith("In which norm a network gains more cannot be told by these.")


def test_rows_have_what_others_published_and_every_pair() -> None:
    rows = {row.item: row for row in norms_claims.rows(off_norm())}
    assert len(rows) == 1 + 4 + 3 + 3 * len(MATCHES) + 3
    first = next(iter(rows.values()))
    assert first.item.endswith("?")
    assert first.ours == norms_answer.on_radii(off_norm())
    printed = {row.item: (row.published, row.ours[:5]) for row in rows.values() if "attacked accuracy" in row.item}
    assert printed == {
        "MNIST, trained on linf:0.3: attacked accuracy at linf:0.3": ("90.3", "100.0"),
        "MNIST, trained on linf:0.3: attacked accuracy at l2:2": ("13.6", "50.0 "),
        "MNIST, trained on l2:2: attacked accuracy at l2:2": ("69.2", "100.0"),
        "MNIST, trained on l2:2: attacked accuracy at linf:0.3": ("0.4", "0.0 ("),
    }
    pair = rows["MNIST: standing at linf 0.3 and at l2 4.09 (equal volume)"]
    assert pair.ours == "natural 0.0%, 0.0%; linf:0.3 100.0%, 50.0%; l2:2 0.0%, 0.0%"
    assert pair.note == "up to 50 points apart, linf:0.3"
    alone = rows["MNIST, trained on linf:0.3: median l2 distance by PGD, DDN, HopSkipJump alone, by all"]
    assert alone.ours == "4.8, 3.2, 3.2, 3.2"


def test_a_curve_falls_by_one_image_at_each_distance() -> None:
    axes = Figure().subplots()
    curve.standing(axes, pl.Series([0.3, math.inf, 0.1, 0.3]))
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [0, 0.1, 0.3, 0.3]
    assert line.get_ydata().tolist() == [1, 0.75, 0.5, 0.25]
