"""Losses against numbers worked out by hand and the formulas of their papers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from casemate.errors import CasemateError
from casemate.losses import LOSSES, by_name, cross_entropy, divergence, dlr, margin

Z = torch.tensor([[4.0, 1.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-1.0, 5.0, 2.0, 1.0]])
Y = torch.tensor([0, 2, 2])
T = torch.tensor([1, 0, 3])


def test_cross_entropy_by_hand() -> None:
    total = math.log(math.exp(4) + math.exp(1) + math.exp(3) + 1)
    assert cross_entropy(Z, Y)[0].item() == pytest.approx(total - 4)
    assert cross_entropy(Z, Y)[1].item() == pytest.approx(math.log(4))
    # Towards a class it grows with that class's log probability.
    assert cross_entropy(Z, Y, T)[0].item() == pytest.approx(1 - total)


def test_margin_by_hand() -> None:
    assert margin(Z, Y).tolist() == [-1.0, 0.0, 3.0]
    assert margin(Z, Y, T).tolist() == [-3.0, 0.0, -1.0]


def test_dlr_by_hand() -> None:
    # First row: -(4 - 3) / (4 - 1); third: -(2 - 5) / (5 - 1).
    assert dlr(Z, Y)[0].item() == pytest.approx(-1 / 3)
    assert dlr(Z, Y)[2].item() == pytest.approx(3 / 4)
    # Towards class 1: -(4 - 1) / (4 - (1 + 0) / 2); towards class 3: -(2 - 1) / (5 - (1 - 1) / 2).
    assert dlr(Z, Y, T)[0].item() == pytest.approx(-3 / 3.5)
    assert dlr(Z, Y, T)[2].item() == pytest.approx(-1 / 5)
    assert dlr(Z, Y).isfinite().all(), "equal logits"


def test_divergence_by_hand() -> None:
    p = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    z = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    expected = [0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), math.log(2)]
    assert divergence(z, torch.tensor([0, 0]), p).tolist() == pytest.approx(expected)
    own = torch.randn(5, 4)
    assert divergence(own, torch.zeros(5, dtype=torch.int64), own.softmax(dim=1)).abs().max() < 1e-6


logits_and_classes = st.integers(4, 8).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(-50, 50, width=32), min_size=n, max_size=n), st.permutations(range(n)).map(lambda p: p[:2])
    )
)


@given(logits_and_classes)
def test_dlr_is_its_formula(case: tuple[list[float], list[int]]) -> None:
    values, (label, other) = case
    z, y, t = torch.tensor([values]), torch.tensor([label]), torch.tensor([other])
    ordered = sorted(values, reverse=True)
    best_wrong = max(value for place, value in enumerate(values) if place != label)
    if ordered[0] - ordered[2] > 1e-3:
        expected = -(values[label] - best_wrong) / (ordered[0] - ordered[2])
        assert dlr(z, y).item() == pytest.approx(expected, rel=1e-3, abs=1e-4)
        expected = -(values[label] - values[other]) / (ordered[0] - (ordered[2] + ordered[3]) / 2)
        assert dlr(z, y, t).item() == pytest.approx(expected, rel=1e-3, abs=1e-4)


@given(logits_and_classes)
def test_margin_is_positive_exactly_where_another_class_is_ahead(case: tuple[list[float], list[int]]) -> None:
    values, (label, other) = case
    z, y = torch.tensor([values]), torch.tensor([label])
    ahead = max(value for place, value in enumerate(values) if place != label) > values[label]
    assert (margin(z, y).item() > 0) == ahead
    assert margin(z, y).item() >= margin(z, y, torch.tensor([other])).item()


def test_dlr_does_not_change_with_scale_and_shift() -> None:
    for target in (None, T):
        assert torch.allclose(dlr(100 * Z + 7, Y, target)[::2], dlr(Z, Y, target)[::2], atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target", [None, T])
def test_each_image_has_its_own_loss_and_a_finite_gradient(name: str, target: Tensor | None) -> None:
    loss = by_name(name)
    z = (Z + torch.tensor([0.01, 0.02, 0.03, 0.04])).requires_grad_(True)
    values = loss(z, Y, target)
    assert values.shape == (3,)
    (gradient,) = torch.autograd.grad(values[0], z)
    assert gradient[0].any()
    assert not gradient[1:].any()
    assert gradient.isfinite().all()
    # A little more of the label makes the classifier less wrong.
    assert gradient[0, Y[0]] < 0 or (name == "cross-entropy" and target is not None)
    assert loss(z[:0], Y[:0], None if target is None else target[:0]).shape == (0,)


def test_dlr_needs_three_classes_and_four_with_a_target() -> None:
    y = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(CasemateError, match="at least 3 classes and this classifier has 2: use margin"):
        dlr(torch.randn(2, 2), y)
    with pytest.raises(CasemateError, match="targeted DLR loss needs at least 4 classes"):
        dlr(torch.randn(2, 3), y, y + 1)
    assert dlr(torch.randn(2, 3), y).shape == (2,)
    for loss in (cross_entropy, margin):
        assert loss(torch.randn(2, 2), y).shape == (2,)
        assert loss(torch.randn(2, 2), y, y + 1).shape == (2,)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(CasemateError, match="unknown loss 'ce': choose one of cross-entropy, margin, dlr"):
        by_name("ce")
