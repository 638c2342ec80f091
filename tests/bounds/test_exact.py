"""Bounds against the exact answer on networks small enough to find it."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor, nn

from casemate.bounds import (
    CROWN,
    CROWNIBP,
    IBP,
    AlphaCROWN,
    ByZonotopes,
    FullAlphaCROWN,
    Intervals,
    Tracing,
    box_of,
    propagate,
)
from casemate.bounds.linear import LinearBounds
from casemate.bounds.optimised import OptimisedBounds
from casemate.threat import L1, L2, Linf

N_IN, N_HIDDEN = 3, 4


def least_margin(model: nn.Sequential, x: torch.Tensor, eps: float) -> float:
    """The least of the logit of class 0 minus that of class 1: one linear programme for each pattern of the ReLUs."""
    first, second, last = (model[place] for place in (1, 3, 5))
    w1, b1, w2, b2, w3, b3 = (
        value.detach().double().numpy() for layer in (first, second, last) for value in (layer.weight, layer.bias)
    )
    low, high = ((x + sign * eps).clamp(0, 1).double().flatten().numpy() for sign in (-1, 1))
    least = np.inf
    for pattern in itertools.product((0, 1), repeat=2 * N_HIDDEN):
        on1, on2 = np.array(pattern[:N_HIDDEN]), np.array(pattern[N_HIDDEN:])
        a2, c2 = w2 @ (on1[:, None] * w1), w2 @ (on1 * b1) + b2
        objective = (w3[0] - w3[1]) @ (on2[:, None] * a2)
        shift = (w3[0] - w3[1]) @ (on2 * c2) + b3[0] - b3[1]
        rows = np.concatenate([(1 - 2 * on1)[:, None] * w1, (1 - 2 * on2)[:, None] * a2])
        sides = np.concatenate([(2 * on1 - 1) * b1, (2 * on2 - 1) * c2])
        found = linprog(objective, A_ub=rows, b_ub=sides, bounds=list(zip(low, high, strict=True)))
        if found.status == 0:
            least = min(least, found.fun + shift)
    return least


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from((0.02, 0.2)))
def test_no_bound_is_above_the_exact_one_and_each_is_as_tight_as_it_promises(seed: int, eps: float) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(N_IN, N_HIDDEN), nn.ReLU(), nn.Linear(N_HIDDEN, N_HIDDEN), nn.ReLU(),
        nn.Linear(N_HIDDEN, 2),
    ).eval()  # fmt: skip
    x, y = torch.rand(1, 1, 1, N_IN), torch.tensor([0])
    exact = least_margin(model, x, eps)
    ibp, crown_ibp, crown, alpha, full, hybrid, zonotope = (
        float(certifier.certify(model, x, y, Linf(eps)).margin)
        for certifier in (
            IBP(), CROWNIBP(), CROWN(), AlphaCROWN(n_steps=30), FullAlphaCROWN(n_steps=30),
            ByZonotopes(relu="box", hybrid=True), ByZonotopes(),
        )
    )  # fmt: skip
    for bound in (ibp, crown_ibp, crown, alpha, full, hybrid, zonotope):
        assert bound <= exact + 1e-7
    assert ibp <= crown
    # A hybrid zonotope with boxed ReLUs is inside of the intervals; with others there is no order.
    assert ibp <= hybrid + 1e-6
    assert crown <= alpha + 1e-6
    # Its inner bounds are never looser; its last steps may end elsewhere, and stop where the margin is proved.
    assert min(alpha, 0) <= full + 1e-3
    # On so few neurons the relaxation itself loses little.
    assert exact - alpha <= 0.5 * (exact - ibp) + 1e-5


def test_optimised_inner_bounds_are_tighter_and_do_not_depend_on_the_other_images() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8),
        nn.ReLU(), nn.Linear(8, 3),
    ).double().requires_grad_(False)  # fmt: skip
    x, threat, domain = torch.rand(4, 1, 9, 9, dtype=torch.float64), Linf(0.1), Intervals()
    graph = Tracing(model, x).graph()

    def bounds(kind: type[LinearBounds], images: Tensor) -> LinearBounds:
        return kind(graph, threat, images, box_of(threat, images, domain), domain)

    plain, optimised = bounds(LinearBounds, x), bounds(OptimisedBounds, x)
    for place in (3, 6):
        one, other = plain.boxes[place], optimised.boxes[place]
        open_ = (one.lower < 0) & (one.upper > 0)
        assert (other.lower >= one.lower - 1e-9).all()
        assert (other.upper <= one.upper + 1e-9).all()
        assert (other.radius < 0.99 * one.radius)[open_].any()
    for image in range(4):
        alone = bounds(OptimisedBounds, x[image : image + 1])
        for place in (3, 6):
            torch.testing.assert_close(alone.boxes[place].radius[0], optimised.boxes[place].radius[image])


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.3), L1(0.4)], ids=str)
def test_linear_bounds_of_a_linear_classifier_are_exact(threat: Linf | L2 | L1) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2, bias=False)).requires_grad_(False)
    x = 0.4 + 0.2 * torch.rand(5, 1, 3, 3)
    w = (model[1].weight[0] - model[1].weight[1]).double()
    dual = {Linf: w.abs().sum(), L2: w.norm(), L1: w.abs().max()}[type(threat)]
    clean = x.flatten(1).double() @ w
    y = torch.zeros(5, dtype=torch.int64)
    found = CROWN().certify(model, x, y, threat).margin
    # Rounding takes a millionth; the ball of l2 and l1 lies inside of the box of the image.
    torch.testing.assert_close(found, clean - threat.eps * dual, rtol=1e-4, atol=1e-5)


def test_intervals_forget_what_two_results_share() -> None:
    """x - x is 0, and an interval of twice the radius: what keeps an interval pass cheap, and loose."""

    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - x).flatten(1)

    x, domain = torch.full((1, 1, 1, 2), 0.5), Intervals()
    graph = Tracing(Nothing(), x).graph()
    last = propagate(graph, domain, box_of(Linf(0.1), x, domain))[-1]
    torch.testing.assert_close(last.radius, torch.full((1, 2), 0.2))
    y = torch.tensor([0])
    assert ByZonotopes().certify(Nothing(), x, y, Linf(0.1)).margin == pytest.approx(0, abs=1e-5)
    assert CROWN().certify(Nothing(), x, y, Linf(0.1)).margin == pytest.approx(0, abs=1e-5)
    assert IBP().certify(Nothing(), x, y, Linf(0.1)).margin == pytest.approx(-0.4, abs=1e-5)
