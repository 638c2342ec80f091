"""Threat models against other ways to compute the same: bisection, a general optimiser, rejection sampling.

Images are 1 x 1 x n here, so that a test case is a list of numbers.
"""

import math
import warnings
from fractions import Fraction
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor

from casemate import rng
from casemate.errors import CasemateError
from casemate.threat import L1, L2, ROUNDING, Linf, Threat, parse, with_eps

NORMS = (Linf, L2, L1)
# Each value is rounded to float32 and may then move one float towards x; `Linf` gives away a little more.
STORED = 2.0**-21
P_VALUE = 1e-9


def image(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)


def keys(n: int, seed: int = 0) -> rng.Keys:
    return rng.image_keys(seed, torch.arange(n))


pixels = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 1e-45, 1e-38, 1 - 2.0**-24, 1 / 255]),
    st.floats(0, 1, width=32, allow_subnormal=True),
)
anywhere = st.one_of(
    pixels,
    st.sampled_from([-1e-45, 1 + 2.0**-23, -1e30, 1e30, -3.0, 4.0]),
    st.floats(-10, 10, width=32, allow_subnormal=True),
)
budgets = st.one_of(
    st.sampled_from([1e-6, 1e-3, 8 / 255, 0.1, 0.25, 0.3, 0.5, 1.0, 3.0, 1e6, 1e-12, 1e200]), st.floats(1e-6, 10)
)
pairs = st.integers(1, 12).flatmap(
    lambda n: st.tuples(st.lists(pixels, min_size=n, max_size=n), st.lists(anywhere, min_size=n, max_size=n))
)


def nearest_by_bisection(norm: type, x: np.ndarray, z: np.ndarray, eps: float) -> np.ndarray:
    """The projection by its optimality condition: one number, found by halving, decides how far each value moves."""
    delta = z - x
    room = np.where(delta > 0, 1 - x, x)

    def moved(t: float) -> np.ndarray:
        if norm is L2:
            return np.minimum(t * np.abs(delta), room)
        return np.minimum(np.maximum(np.abs(delta) - (1 - t) * np.abs(delta).max(), 0), room)

    size = np.linalg.norm if norm is L2 else np.sum
    if norm is Linf:
        change = np.minimum(np.minimum(np.abs(delta), room), eps)
    elif size(moved(1.0)) <= eps:
        change = moved(1.0)
    else:
        low, high = 0.0, 1.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if size(moved(middle)) <= eps else (low, middle)
        change = moved(low)
    return np.asarray(x + np.sign(delta) * change)


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=250)
@given(pairs, budgets)
@example(([0.0, 1.0, 0.5], [1e30, -1e30, 0.5]), 1.0)
@example(([1e-45, 0.0], [0.0, 1e-45]), 1e-6)
def test_project_is_inside_and_nearest(norm: type, pair: tuple[list[float], list[float]], eps: float) -> None:
    x, z = image(pair[0]), image(pair[1])
    threat = norm(eps)
    projected = threat.project(z, x)
    assert projected.dtype == torch.float32
    _assert_inside_exactly(threat, projected, x)
    assert threat.contains(projected, x).all()
    again = threat.project(projected, x)
    assert (again - projected).abs().max() <= STORED
    if z.abs().max() > 1e6:
        return  # the oracle subtracts numbers of this size, and has no digits left
    expected = nearest_by_bisection(norm, x.double().numpy().ravel(), z.double().numpy().ravel(), eps)
    assert np.abs(projected.double().numpy().ravel() - expected).max() <= STORED + 1e-9


def _assert_inside_exactly(threat: Threat, x_adv: Tensor, x: Tensor) -> None:
    """In rational arithmetic: the box exactly, and the ball up to the rounding of eps itself to a float64."""
    eps = Fraction(threat.eps) * (1 + Fraction(1, 2**50))
    for moved, original in zip(x_adv.flatten(1).double().tolist(), x.flatten(1).double().tolist(), strict=True):
        assert all(0 <= value <= 1 for value in moved)
        change = [abs(Fraction(a) - Fraction(b)) for a, b in zip(moved, original, strict=True)]
        if isinstance(threat, Linf):
            assert max(change) <= eps
        elif isinstance(threat, L2):
            assert sum(value**2 for value in change) <= eps**2
        else:
            assert sum(change) <= eps


@pytest.mark.parametrize("norm", [L2, L1])
@pytest.mark.parametrize("seed", range(12))
def test_project_agrees_with_a_general_optimiser(norm: type, seed: int) -> None:
    """min |p - z|^2 with p in the box and in the ball, by sequential quadratic programming."""
    generator = np.random.default_rng(seed)
    x = generator.choice([0.0, 1.0, 0.3, 0.8], 5) if seed % 2 else generator.uniform(0, 1, 5)
    z, eps = x + generator.normal(0, 1, 5), generator.uniform(0.2, 1.5)
    # p = x + up - down with up, down >= 0, which makes the l1 norm smooth.
    start = np.zeros(10)
    size = (lambda v: eps - v.sum()) if norm is L1 else (lambda v: eps**2 - ((v[:5] - v[5:]) ** 2).sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solution = optimize.minimize(
            lambda v: ((x + v[:5] - v[5:] - z) ** 2).sum(),
            start,
            method="SLSQP",
            bounds=[(0, 1 - a) for a in x] + [(0, a) for a in x],
            constraints={"type": "ineq", "fun": size},
            options={"ftol": 1e-14, "maxiter": 1000},
        )
    projected = norm(eps).project(image(z.tolist()), image(x.tolist())).double().numpy().ravel()
    assert np.abs(projected - (x + solution.x[:5] - solution.x[5:])).max() < 1e-4


@pytest.mark.parametrize("norm", NORMS)
def test_points_well_inside_keep_their_bits(norm: type) -> None:
    x = torch.rand(50, 3, 4, 4)
    near = (x + 0.001 * torch.randn_like(x)).clamp(0, 1)
    assert torch.equal(norm(10.0).project(near, x), near)


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=100)
@given(st.lists(pixels, min_size=1, max_size=12), budgets, st.integers(0, 2**32))
def test_samples_are_inside(norm: type, values: list[float], eps: float, seed: int) -> None:
    x = image(values)
    drawn = norm(eps).sample(x, rng.image_keys(seed, torch.tensor([0])))
    _assert_inside_exactly(norm(eps), drawn, x)
    assert norm(eps).contains(drawn, x).all()


def changes(threat: Threat, n_images: int, n_values: int) -> Tensor:
    """The changes of samples around grey images, where the box is out of reach, in float64."""
    x = torch.full((n_images, 1, 1, n_values), 0.5)
    return (threat.sample(x, keys(n_images)).double() - 0.5).flatten(1)


@pytest.mark.parametrize("norm", NORMS)
def test_size_of_a_sample_is_that_of_a_uniform_point(norm: type) -> None:
    # Of the volume of a ball in n dimensions, r^n lies within r of the centre.
    delta = changes(norm(0.4), 20_000, 5)
    ratio = norm(0.4).measure((delta + 0.5).float().view(-1, 1, 1, 5), torch.full((20_000, 1, 1, 5), 0.5)) / 0.4
    assert stats.kstest((ratio**5).numpy(), "uniform").pvalue > P_VALUE


@pytest.mark.parametrize(("norm", "order"), [(Linf, math.inf), (L2, 2), (L1, 1)])
def test_samples_are_uniform_in_the_ball(norm: type, order: float) -> None:
    """Against points of the surrounding cube that fall into the ball: both parts of the coordinates, and their mix."""
    sampled = changes(norm(0.4), 20_000, 3).numpy()
    cube = np.random.default_rng(1).uniform(-0.4, 0.4, (400_000, 3))
    expected = cube[np.linalg.norm(cube, ord=order, axis=1) <= 0.4][:20_000]
    for statistic in (
        lambda d: d[:, 0],
        lambda d: d[:, 2],
        lambda d: np.abs(d).max(axis=1),
        lambda d: d[:, 0] - d[:, 1],
    ):
        assert stats.ks_2samp(statistic(sampled), statistic(expected)).pvalue > P_VALUE


@pytest.mark.parametrize("norm", NORMS)
def test_samples_are_clipped_at_the_box(norm: type) -> None:
    black = norm(0.4).sample(torch.zeros(2000, 1, 1, 4), keys(2000)).flatten()
    # Half of each coordinate's distribution is below 0; 6.2 standard deviations of a share of 8,000.
    assert abs(float((black == 0).double().mean()) - 0.5) < 6.2 * 0.5 / math.sqrt(8000)


@pytest.mark.parametrize("norm", NORMS)
@given(pairs, st.floats(1e-30, 1e10))
def test_ascent_has_unit_size_and_grows_the_loss(
    norm: type, pair: tuple[list[float], list[float]], scale: float
) -> None:
    gradient, x_adv = image(pair[1]).clamp(-10, 10) * scale, torch.full((1, 1, 1, len(pair[1])), 0.5)
    step = norm(0.1).ascent(gradient, x_adv)
    assert step.isfinite().all()
    if not gradient.any():
        assert not step.any()
        return
    assert (step.double() * gradient.double()).sum() > 0
    order = {Linf: math.inf, L2: 2, L1: 1}[norm]
    if norm is not Linf or gradient.all():
        assert float(step.double().flatten().norm(p=order)) == pytest.approx(1, abs=1e-5)


def test_ascent_of_l2_and_linf_is_steepest() -> None:
    gradient = torch.randn(20, 1, 3, 3)
    grey = torch.full_like(gradient, 0.5)
    dual = {Linf: gradient.flatten(1).abs().sum(dim=1), L2: gradient.flatten(1).norm(dim=1)}
    for norm, steepest in dual.items():
        growth = (norm(0.1).ascent(gradient, grey) * gradient).flatten(1).sum(dim=1)
        assert torch.allclose(growth, steepest)


def test_l1_ascent_moves_the_top_share_that_the_box_leaves_room_for() -> None:
    gradient = torch.arange(1.0, 101).view(1, 1, 10, 10)
    x_adv = torch.full_like(gradient, 0.5)
    x_adv[0, 0, 9, 9] = 1.0
    step = L1(1.0).ascent(gradient, x_adv).flatten()
    # The largest entry is at the face of the box; the next five share the step in proportion.
    assert step.nonzero().flatten().tolist() == [94, 95, 96, 97, 98]
    assert torch.allclose(step[94:99], torch.arange(95.0, 100) / 485)
    assert not L1(1.0).ascent(gradient, torch.ones_like(gradient)).any()


@pytest.mark.parametrize(
    ("threat", "slack"), [(Linf(0.25), ROUNDING), (L2(0.25), 2 * ROUNDING), (L1(0.25), 4 * ROUNDING)], ids=str
)
def test_contains_allows_the_documented_rounding_and_no_more(threat: Threat, slack: float) -> None:
    x = torch.full((1, 1, 2, 2), 0.5)

    def at(distance: float) -> bool:
        moved = x.clone()
        moved[0, 0, 0, 0] += distance
        assert float(moved[0, 0, 0, 0]) == 0.5 + distance, "the test means this very float"
        return bool(threat.contains(moved, x))

    assert at(0.25)
    assert at(-0.25)
    assert at(0.25 + slack)
    assert at(-0.25 - slack)
    assert not at(0.25 + slack + ROUNDING)
    assert not at(-0.25 - slack - ROUNDING)


@pytest.mark.parametrize("norm", NORMS)
def test_contains_gives_the_box_no_slack(norm: type) -> None:
    x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    below, above = torch.nextafter(x, torch.tensor(-1.0)), torch.nextafter(x, torch.tensor(2.0))
    assert norm(0.5).contains(x, x)
    for bad in (below, above, x + torch.nan, x - torch.inf):
        assert not norm(0.5).contains(bad, x)


def test_measure_by_hand() -> None:
    x = torch.zeros(2, 1, 1, 3)
    x_adv = torch.tensor([[0.25, 0.0, 0.5], [0.0, 0.0, 0.0]]).view(2, 1, 1, 3)
    assert Linf(1).measure(x_adv, x).tolist() == [0.5, 0.0]
    assert L2(1).measure(x_adv, x).tolist() == [math.sqrt(0.3125), 0.0]
    assert L1(1).measure(x_adv, x).tolist() == [0.75, 0.0]


@pytest.mark.parametrize(
    ("text", "threat"),
    [
        ("linf:8/255", Linf(8 / 255)),
        ("linf:0.3", Linf(0.3)),
        ("l2:0.5", L2(0.5)),
        (" l2: 1 / 2 ", L2(0.5)),
        ("l2:128/255", L2(128 / 255)),
        ("l1:12", L1(12)),
        ("l1:1e-3", L1(0.001)),
    ],
)
def test_parse(text: str, threat: Threat) -> None:
    assert parse(text) == threat


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write norm:eps such as linf:8/255"),
        ("linf", "write norm:eps such as linf:8/255"),
        ("0.3", "write norm:eps such as linf:8/255"),
        ("l3:0.3", r"unknown threat model 'l3:0.3'.*\(linf, l2, l1\)"),
        ("Linf:0.3", "unknown threat model"),
        ("linf:", "'' in 'linf:' is not a budget: write a number or a fraction such as linf:8/255"),
        ("l2:much", "'much' in 'l2:much' is not a budget"),
        ("linf:8/0", "is not a budget"),
        ("linf:8/255/2", "is not a budget"),
        ("linf:nan", "is not a budget"),
        ("linf:inf", "is not a budget"),
        ("linf:1e400", "is not a budget"),
        ("linf:1e999999999", "is not a budget"),
        ("linf:0", "eps must be a positive number"),
        ("linf:-0.1", "eps must be a positive number"),
        ("linf:1e-400", "eps must be a positive number"),
    ],
)
def test_parse_shows_the_right_form(text: str, message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        parse(text)


@pytest.mark.parametrize("eps", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("norm", NORMS)
def test_budget_that_is_none_is_refused(norm: type, eps: float) -> None:
    with pytest.raises(CasemateError, match="eps must be a positive number on the scale of"):
        norm(eps)


@settings(max_examples=200)
@given(st.sampled_from(NORMS), st.floats(1e-9, 1e9) | st.integers(1, 1000) | st.integers(1, 255).map(lambda k: k / 255))
def test_text_reads_back(norm: type, eps: float) -> None:
    assert parse(str(norm(eps))) == norm(eps)


def test_text_is_as_people_write_it() -> None:
    assert str(Linf(8 / 255)) == "linf:8/255"
    assert str(Linf(0.3)) == "linf:0.3"
    assert str(L2(128 / 255)) == "l2:128/255"
    assert str(L1(12)) == "l1:12"
    assert str(L2(0.5)) == "l2:0.5"


def test_threat_models_are_values() -> None:
    assert {Linf(0.3): "a"}[Linf(0.3)] == "a"
    assert Linf(0.3) != L2(0.3)
    assert isinstance(Linf(0.3), Threat)
    with pytest.raises(AttributeError):
        Linf(0.3).eps = 0.4  # type: ignore[misc]


def test_another_budget_of_the_same_norm() -> None:
    assert [with_eps(threat, 0.5) for threat in (Linf(1), L2(1), L1(1))] == [Linf(0.5), L2(0.5), L1(0.5)]
    with pytest.raises(CasemateError, match="has no other budgets: its norm is none of linf, l2, l1"):
        with_eps(Mock(spec=Threat), 0.5)
