"""The attack through the resize against brute force, and what the two experiments make of their numbers."""

import math

import polars as pl
import pytest
import torch
from paper_toys import linear
from torch import nn

from casemate.papers.evaluation import Evaluation
from casemate.papers.item import Row
from casemate.papers.madry2018 import dimension, dimension_answers, dimension_claims
from casemate.papers.madry2018.dimension import Study
from casemate.papers.madry2018.dimension_facts import KINDS, Facts, doubling, exponent, facts
from casemate.papers.madry2018.pair import DATA_SETS, NATURAL, TRAINED
from casemate.papers.madry2018.resizes import Resize, Resized, enlarged, reach_of, resizes
from casemate.testing import models
from casemate.threat import L2, Linf

EVERY = resizes((2, 4))
every_resize = pytest.mark.parametrize("resize", EVERY, ids=str)


def brute(resize: Resize, low: int = 5) -> torch.Tensor:
    """The whole map from images to smaller ones, [low * low, high * high], one unit image at a time."""
    high = low * resize.factor
    units = torch.eye(high * high, dtype=torch.float64).view(-1, 1, high, high)
    return resize(units).flatten(1).T


@every_resize
def test_the_matrix_along_one_axis_is_the_whole_map_applied_to_each(resize: Resize) -> None:
    one = resize.matrix(5 * resize.factor)
    torch.testing.assert_close(torch.kron(one, one), brute(resize))


@every_resize
def test_an_inner_row_of_pytorchs_matrix_is_the_closed_form(resize: Resize) -> None:
    low = 16
    taps, row = resize.taps(), resize.matrix(low * resize.factor)[low // 2]
    groups = len(taps) // resize.factor // 2
    first = (low // 2 - groups) * resize.factor if len(taps) > resize.factor else low // 2 * resize.factor
    expected = torch.zeros_like(row)
    expected[first : first + len(taps)] = taps
    torch.testing.assert_close(row, expected)


@every_resize
def test_reach_by_rows_and_singular_values_is_that_of_the_whole_map(resize: Resize) -> None:
    found, whole = reach_of(resize.matrix(5 * resize.factor)), brute(resize)
    values = torch.linalg.svdvals(whole)
    assert found.linf == pytest.approx(float(whole.abs().sum(dim=1).max()))
    assert found.l2 == pytest.approx((1 / float(values.max()), 1 / float(values.min())))
    assert found.share == pytest.approx(float((whole != 0).any(dim=0).double().mean()))


@every_resize
def test_the_closed_form_of_the_reach_is_that_of_large_images(resize: Resize) -> None:
    closed, found = resize.reach(), reach_of(resize.matrix(64 * resize.factor))
    assert found.linf == pytest.approx(closed.linf)
    # At a border the taps beyond it are left out, which lets one change through that is a little cheaper.
    assert found.l2 == pytest.approx(closed.l2, rel=0.015)
    assert found.share == pytest.approx(closed.share)


@pytest.mark.parametrize(
    ("resize", "linf", "l2", "share"),
    [
        (Resize("area", 4), 1, (4, 4), 1),
        (Resize("nearest", 4), 1, (1, 1), 1 / 16),
        (Resize("bilinear", 2), 1, (2, 2), 1),
        (Resize("bilinear", 4), 1, (2, 2), 1 / 4),
        (Resize("bicubic", 2), 1.375**2, (1.0579, 2), 1),
        (Resize("bicubic", 4), 1.375**2, (1.3838, 1.3838), 1),
        (Resize("bilinear", 2, antialias=True), 1, (2, 8), 1),
        (Resize("bicubic", 2, antialias=True), 1.1875**2, (2, 4.2314), 1),
    ],
    ids=str,
)
def test_the_closed_forms_have_the_values_worked_out_by_hand(
    resize: Resize, linf: float, l2: tuple[float, float], share: float
) -> None:
    found = resize.reach()
    assert found.linf == pytest.approx(linf, rel=1e-6)
    assert found.l2 == pytest.approx(l2, rel=1e-4)
    assert found.share == pytest.approx(share, rel=1e-6)


@every_resize
def test_the_reach_in_linf_is_attained_and_never_passed(resize: Resize) -> None:
    whole = brute(resize)
    gain = reach_of(resize.matrix(5 * resize.factor)).linf
    worst = whole[whole.abs().sum(dim=1).argmax()].sign().view(1, 1, 5 * resize.factor, -1)
    assert float(resize(worst).abs().max()) == pytest.approx(gain)
    changes = 2 * torch.rand(200, *worst.shape[1:], dtype=torch.float64) - 1
    assert resize(changes.sign()).abs().max() <= gain + 1e-12


@every_resize
def test_the_least_change_in_l2_is_that_of_the_pseudo_inverse(resize: Resize) -> None:
    least, most = reach_of(resize.matrix(5 * resize.factor)).l2
    wanted = torch.randn(50, 25, dtype=torch.float64)
    changes = wanted @ torch.linalg.pinv(brute(resize)).T
    size = 5 * resize.factor
    torch.testing.assert_close(resize(changes.view(-1, 1, size, size)).flatten(1), wanted)
    ratios = changes.norm(dim=1) / wanted.norm(dim=1)
    assert ratios.min() >= least - 1e-9
    assert ratios.max() <= most + 1e-9


@every_resize
def test_an_enlarged_image_comes_out_as_it_was_where_that_is_said(resize: Resize) -> None:
    x = models.images(4, (3, 6, 6))
    undone = torch.allclose(resize(enlarged(x, resize.factor)), x, atol=1e-6)
    assert undone == resize.undoes_enlargement()


@pytest.mark.parametrize("factor", [2, 4])
def test_what_reaches_a_network_behind_area_pooling_is_what_reaches_the_network(factor: int) -> None:
    x, threat = models.images(6, (1, 7, 7)), Linf(0.2)
    pool, large = Resize("area", factor), enlarged(x, factor)
    # The set is a box in front as behind, so that its corners say all: they come through as they are.
    for corner in ((x - 0.2).clamp(min=0), (x + 0.2).clamp(max=1)):
        assert threat.contains(enlarged(corner, factor), large).all()
        torch.testing.assert_close(pool(enlarged(corner, factor)), corner)
    # Nothing from further out gets through: any point of the large ball lands in the small one.
    z = threat.project((large + 2 * torch.rand_like(large) - 1).clamp(0, 1), large)
    assert (threat.measure(pool(z), x) <= 0.2 + 1e-6).all()
    assert (threat.measure(z, large) > 0.19).all()
    # And in l2 a change costs the factor more in front.
    changed = models.images(6, (1, 7, 7), seed=1)
    assert L2(1).measure(enlarged(changed, factor), large).tolist() == pytest.approx(
        (factor * L2(1).measure(changed, x)).tolist()
    )


STUDY = Study(DATA_SETS[0], 8, Linf(0.2), 0.001, {})


@pytest.mark.parametrize("resize", [resize for resize in EVERY if resize.factor == 2], ids=str)
def test_attacks_through_a_resize_find_the_distances_of_a_linear_network(resize: Resize) -> None:
    weights = torch.randn(64)
    # Grey images a little on the side of class 0, wherever the resize takes them; label 1 is wrong for the last.
    weights -= weights.mean()
    x = enlarged(0.5 - 0.02 * torch.rand(4, 1, 1, 1) * weights.sign().view(1, 1, 8, 8), resize.factor)
    network = nn.Sequential(Resized(resize), linear(weights))
    y = torch.tensor([0, 0, 0, 1])
    found = dimension.attacked(network, Evaluation(Linf(0.01), x, y, 0), STUDY)
    seen = resize(x.double()).flatten(1)
    ahead = -(seen @ weights.double())[:3]
    large = torch.kron(*[resize.matrix(8 * resize.factor)] * 2).T @ weights.double()
    linf, l2 = ahead / large.abs().sum(), ahead / large.norm()
    assert found["right"].to_list() == [True, True, True, False]
    assert found["linf"].to_list()[:3] == pytest.approx(linf.tolist(), abs=0.0015)
    assert found["l2"].to_list()[:3] == pytest.approx(l2.tolist(), rel=0.02)
    assert found["linf"][3] == found["l2"][3] == 0
    assert found["standing"].to_list() == [*(linf > 0.01).tolist(), False]
    # Of a linear network the gradient is everywhere the same up to the probability of the other class.
    other = torch.sigmoid(-ahead)
    assert found["gradient"].to_list()[:3] == pytest.approx((other * large.abs().sum()).tolist(), rel=1e-4)
    # The nearest change in l2 is along the weights as the large image has them.
    kappa = large.norm() / (large.abs().max() * math.sqrt(len(large)))
    assert found["kappa"].to_list()[:3] == pytest.approx([kappa.item()] * 3, rel=0.02)
    assert found["share"].to_list()[:3] == pytest.approx([resize.reach().share] * 3, abs=0.02)


def fabricated(
    linf: dict[str, tuple[float, float, float]], standing: float = 1.0, native: float = 1.0, bicubic: float = 1.0
) -> Facts:
    """One image for every hundredth of a share; behind a resize distances are those of the closed form."""
    own, sides, n = 28, (14, 28, 56), 100

    def images(share: float, linf: float, l2: float, gradient: float) -> pl.DataFrame:
        columns = {"right": True, "linf": linf, "l2": l2, "kappa": 0.2, "share": 0.25, "gradient": gradient}
        left = [number < round(share * n) for number in range(n)]
        return pl.DataFrame({"image": range(n), "standing": left}).with_columns(
            *(pl.lit(value).alias(name) for name, value in columns.items())
        )

    sizes, behind = [], []
    for network in KINDS:
        for side, radius in zip(sides, linf[network], strict=True):
            share = native if side == 56 else standing
            sizes.append(images(share, radius, 2.0, float(side)).with_columns(network=pl.lit(network), side=side))
        for resize in EVERY:
            share = bicubic if resize.kind == "bicubic" and not resize.antialias else standing
            reach = resize.reach()
            frame = images(share, linf[network][1] / reach.linf, 2.0 * reach.l2[0], 1.0)
            behind.append(frame.with_columns(network=pl.lit(network), resize=pl.lit(str(resize))))
    fresh = pl.DataFrame({"side": [*sides] * 2, "draw": [0] * 3 + [1] * 3, "gradient": [1.0, 4.0, 16.0] * 2})
    frames = {
        "sizes": pl.concat(sizes),
        "resizes": pl.concat(behind),
        "fresh": fresh,
        "reach": dimension.reaches(EVERY, own),
    }
    return facts("MNIST", sides, Linf(0.3), frames)


FALLING, STAYING = (0.4, 0.2, 0.1), (0.3, 0.3, 0.3)


def test_facts_are_medians_over_images_and_ratios_of_the_same_images() -> None:
    found = fabricated({NATURAL: FALLING, TRAINED: STAYING}, standing=0.9)
    assert found.n == 100
    assert found.size(NATURAL, 56)["linf"] == 0.1
    assert found.size(TRAINED, 28)["standing"] == 0.9
    assert found.through(TRAINED, "area, factor 4")["l2_ratio"] == pytest.approx(4)
    assert found.through(NATURAL, "bicubic, factor 2")["linf_ratio"] == pytest.approx(1 / 1.375**2)
    # From 1 to 16 over two doublings of the side, which are four of n.
    assert exponent(found.sides, found.untrained["gradient"].to_list()) == pytest.approx(1.0)
    assert exponent(found.sides, [14.0, 28.0, 56.0]) == pytest.approx(0.5)
    assert doubling(0.4, 0.1, 2) == pytest.approx(0.5)
    assert math.isnan(doubling(0.0, 0.1))
    assert math.isnan(exponent(found.sides, [1.0, 2.0, 0.0]))


def test_sizes_are_compared_on_the_images_that_all_get_right() -> None:
    """A network that gets most images wrong has a median all the same: that of those it shares with the others."""
    frames = dict(fabricated({NATURAL: FALLING, TRAINED: STAYING}).frames)
    wrong = (pl.col("network") == TRAINED) & (pl.col("side") == 14) & (pl.col("image") < 60)
    frames["sizes"] = frames["sizes"].with_columns(
        right=~wrong, **{norm: pl.when(wrong).then(0.0).otherwise(norm) for norm in ("linf", "l2")}
    )
    # Where it is wrong, the others' distances are of no use either.
    others = (pl.col("network") == TRAINED) & (pl.col("side") != 14) & (pl.col("image") < 60)
    frames["sizes"] = frames["sizes"].with_columns(linf=pl.when(others).then(5.0).otherwise("linf"))
    found = facts("MNIST", (14, 28, 56), Linf(0.3), frames)
    assert [found.size(TRAINED, side)["linf"] for side in found.sides] == [0.3, 0.3, 0.3]
    assert (found.n_shared(TRAINED), found.n_shared(NATURAL)) == (40, 100)
    assert found.size(TRAINED, 14)["clean"] == 0.4


def rows_by_item(found: Facts) -> dict[str, Row]:
    # Of all rows that on the weights alone needs the networks.
    rows = [row for network in KINDS for row in dimension_claims._size_rows(found, network)]
    rows += [row for resize in EVERY for row in dimension_claims._resize_rows(found, str(resize))]
    return {row.item: row for row in rows}


def test_predictions_are_those_of_the_closed_forms() -> None:
    found = rows_by_item(fabricated({NATURAL: FALLING, TRAINED: STAYING}, standing=0.9))
    stand = "attacked accuracy at linf:0.3"
    assert found[f"MNIST, nearest, factor 4: {stand}"].published.startswith("as without it: natural 90.0%")
    assert "up to linf 0.567" in found[f"MNIST, bicubic, factor 2: {stand}"].published
    assert found[f"MNIST, bilinear antialiased, factor 2: {stand}"].published.startswith("not lower")
    change = "smallest change, over that without it"
    assert found[f"MNIST, area, factor 4: {change}"].published == "linf 1, l2 4.00"
    assert found[f"MNIST, bicubic, factor 4: {change}"].published == "linf at least 0.53, l2 1.38"
    let = "linf change let through, and l2 change that it takes, per unit"
    row = found[f"MNIST, bilinear antialiased, factor 2: {let}"]
    assert row.published == "linf 1.000, l2 2.00 to 8.00"
    assert row.ours == "linf 1.000, l2 2.00 to 7.93"
    assert "25.0% of the pixels" in found[f"MNIST, bilinear, factor 4: {let}"].note
    linf = found["MNIST, natural: median smallest linf change at 14, 28, 56 pixels"]
    assert linf.ours == "0.4, 0.2, 0.1"
    assert "times 0.50 and 0.50" in linf.note


def test_the_answer_says_what_the_numbers_say() -> None:
    falling = dimension_answers.on_pixels(fabricated({NATURAL: FALLING, TRAINED: STAYING}, native=0.5))
    assert "of the natural networks falls (0.4, 0.2, 0.1, times 0.50 at each doubling)" in falling
    assert "of the PGD-trained networks stays" in falling
    assert "exponent in n of 1.00 before training and of 0.50 and 0.50 after" in falling
    assert "Larger images need not cost as much" in falling
    assert "fewer pixels did make adversarial examples harder to find for the natural networks alone." in falling
    still = dimension_answers.on_pixels(fabricated({NATURAL: STAYING, TRAINED: STAYING}, standing=0.2, native=0.2))
    assert "Larger images cost nothing here" in still
    assert "did not make adversarial examples harder to find" in still
    assert "no protection by themselves: of the natural network at 14 pixels 20.0% stand" in still
    both = dimension_answers.on_pixels(fabricated({NATURAL: FALLING, TRAINED: FALLING}))
    assert "did make adversarial examples harder to find. " in both
    # A network that learnt nothing has no radius, and then there is no verdict.
    none = dimension_answers.on_pixels(fabricated({NATURAL: FALLING, TRAINED: (0.3, 0.3, 0.0)}))
    assert "of the PGD-trained networks cannot be compared (0.3, 0.3, 0)" in none
    assert "cannot be told" in none
    assert "nan" not in none


def test_the_answer_about_resizes_names_the_gains_that_were_measured() -> None:
    radii = {NATURAL: FALLING, TRAINED: STAYING}
    both = dimension_answers.on_resizes(fabricated(radii, standing=0.9, bicubic=0.1))
    assert "(90.0% standing at linf:0.3 without it)" in both
    assert "behind area pooling 90.0% stand and l2 changes are 4.00 times as long" in both
    assert "grow up to 1.89 times, 10.0%" in both
    assert "from pixels that the resize ignores, in l2 and from weights below 0, in linf" in both
    one = dimension_answers.on_resizes(fabricated(radii, standing=0.9, bicubic=0.9))
    assert "from weights below 0" not in one
