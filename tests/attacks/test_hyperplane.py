"""Projections onto a hyperplane within the box against linear programming, brute force and a closed form."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from casemate import L1, L2, Linf
from casemate.attacks.hyperplane import change_to_hyperplane
from casemate.testing import models

Case = tuple[list[float], list[float], float]
ORDERS = (math.inf, 2, 1)
each_order = pytest.mark.parametrize("order", ORDERS)


@st.composite
def tiny_cases(draw: st.DrawFn) -> Case:
    """An image of up to 5 values, often on the box, a normal with zeros and ties, and a gap of either sign."""
    n = draw(st.integers(1, 5))
    pixel = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1, width=16)
    entry = st.sampled_from([-1.0, 0.0, 1.0]) | st.floats(-2, 2, width=16)
    x, normal = (draw(st.lists(kind, min_size=n, max_size=n)) for kind in (pixel, entry))
    return x, normal, draw(st.floats(-4, 4, width=16))


def reach(case: Case) -> float:
    """The largest gap of its sign that the box lets a change close."""
    x, normal, gap = case
    return sum(abs(w) * (1 - p if w * gap > 0 else p) for p, w in zip(x, normal, strict=True))


def change(case: Case, order: float) -> Tensor:
    x, normal, gap = (torch.tensor(values, dtype=torch.float64)[None] for values in case)
    return change_to_hyperplane(x, normal, gap, order)[0]


def least(case: Case, order: float) -> float:
    """The smallest norm of a change that closes the gap within the box, found another way."""
    x, normal, gap = np.array(case[0]), np.array(case[1]), case[2]
    n, eye, one = len(x), np.eye(len(x)), np.ones((len(x), 1))
    if order == 1:
        # The change is the difference of two parts that are not negative.
        bounds = [(0, 1 - p) for p in x] + [(0, p) for p in x]
        return float(linprog(np.ones(2 * n), A_eq=np.r_[normal, -normal][None], b_eq=[gap], bounds=bounds).fun)
    if order == math.inf:
        # A last variable is at least each change and its negative.
        sides = np.block([[eye, -one], [-eye, -one]])
        bounds = [(-p, 1 - p) for p in x] + [(0, None)]
        objective, plane = np.r_[np.zeros(n), 1], np.r_[normal, 0][None]
        return float(linprog(objective, sides, np.zeros(2 * n), plane, [gap], bounds).fun)
    room = np.where(normal * gap > 0, 1 - x, -x)
    norms = []
    for stuck in itertools.product([True, False], repeat=n):
        # The values at the box stay there; the others move along the normal.
        at_box = np.where(stuck, room, 0)
        free = np.where(stuck, 0, normal)
        missing = gap - normal @ at_box
        step = at_box + (free * missing / (free @ free) if free.any() else 0)
        inside = (x + step >= -1e-12).all() and (x + step <= 1 + 1e-12).all()
        if inside and abs(normal @ step - gap) < 1e-9:
            norms.append(float(np.linalg.norm(step)))
    return min(norms)


@each_order
@given(case=tiny_cases())
def test_no_shorter_change_reaches_the_hyperplane(order: float, case: Case) -> None:
    assume(abs(case[2]) <= 0.999 * reach(case) and (case[2] == 0 or abs(case[2]) > 1e-3))
    x, normal, gap = case
    found = change(case, order)
    assert float(found @ torch.tensor(normal, dtype=torch.float64)) == pytest.approx(gap, abs=1e-12)
    moved = torch.tensor(x, dtype=torch.float64) + found
    assert ((moved >= 0) & (moved <= 1)).all()
    assert float(found.norm(p=order)) == pytest.approx(least(case, order), abs=1e-6)
    assert (found[torch.tensor(normal) == 0] == 0).all()


@each_order
@given(case=tiny_cases())
def test_out_of_reach_it_is_the_way_to_the_nearest_corner(order: float, case: Case) -> None:
    x, normal, sign = case[0], case[1], math.copysign(1, case[2])
    beyond = (x, normal, sign * (1.001 * reach((x, normal, sign)) + 0.001))
    # Values without a normal stay; the others end at the side of the box towards the hyperplane.
    corner = [0.0 if w == 0 else float(w * sign > 0) - p for p, w in zip(x, normal, strict=True)]
    assert change(beyond, order).tolist() == pytest.approx(corner, abs=1e-12)


@pytest.mark.parametrize(("threat", "order"), [(Linf(0.2), math.inf), (L2(3), 2), (L1(20), 1)])
def test_large_images_in_float32(threat: Linf | L2 | L1, order: float) -> None:
    shape = (1, 28, 28)
    model = models.Linear(shape)
    x = (3 * models.images(6, shape) - 1).clamp(0, 1)
    # The most by which the loss grows over the ball is what a change of the size of the ball can close.
    gap = model.gain(x, threat).float()
    normal = model.weight.flatten().expand(6, -1)
    found = change_to_hyperplane(x.flatten(1), normal, gap, order)
    assert found.dtype == torch.float32
    assert torch.allclose(found.norm(p=order, dim=1), torch.tensor(float(threat.eps)), rtol=1e-5)
    assert torch.allclose((found * normal).sum(dim=1), gap, rtol=1e-5)
    # Gradients of any size have the same hyperplanes.
    tiny = change_to_hyperplane(x.flatten(1), 1e-30 * normal, 1e-30 * gap, order)
    assert torch.allclose(tiny, found, atol=1e-5)


@each_order
def test_each_image_by_itself(order: float) -> None:
    x, normal = models.images(5, (1, 4, 5)).flatten(1), models.images(5, (1, 4, 5), seed=1).flatten(1) - 0.5
    normal[2] = 0
    gap = torch.tensor([0.01, -0.5, 1.0, 0.0, 100.0])
    together = change_to_hyperplane(x, normal, gap, order)
    for image in range(5):
        at = slice(image, image + 1)
        assert torch.equal(change_to_hyperplane(x[at], normal[at], gap[at], order), together[at])
    assert (together[2:4] == 0).all(), "no normal, or no gap: no change"
    assert len(change_to_hyperplane(x[:0], normal[:0], gap[:0], order)) == 0
