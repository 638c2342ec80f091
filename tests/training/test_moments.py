"""The moments of a batch and the sums behind a regulariser, written out for speed, against plain autograd."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from casemate.bounds import Interval
from casemate.training.regularisers import _imbalance, _Sums
from casemate.training.statistics import _Moments

SHAPES = [(6, 3), (6, 3, 4, 5)]


def in_both_layouts(shape: tuple[int, ...]) -> list[Callable[[Tensor], Tensor]]:
    plain = [lambda x: x]
    return plain + [lambda x: x.contiguous(memory_format=torch.channels_last)] * (len(shape) == 4)


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_are_mean_and_variance_with_their_gradients(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    axes = (0, *range(2, len(shape)))
    for laid_out in in_both_layouts(shape):
        x = laid_out(torch.randn(shape, dtype=torch.float64)).requires_grad_()
        mean, variance = _Moments.apply(x)
        torch.testing.assert_close(mean, x.mean(dim=axes))
        torch.testing.assert_close(variance, x.var(dim=axes, unbiased=False))
        assert torch.autograd.gradcheck(_Moments.apply, x)


def test_moments_of_a_constant_channel_are_finite() -> None:
    x = torch.full((4, 2, 3, 3), 0.7).requires_grad_()
    mean, variance = _Moments.apply(x)
    (gradient,) = torch.autograd.grad((mean + 1 / (variance + 1e-5).sqrt()).sum(), x)
    torch.testing.assert_close(mean, torch.full((2,), 0.7))
    torch.testing.assert_close(variance, torch.zeros(2), rtol=0, atol=1e-6)
    assert gradient.isfinite().all()


def test_moments_of_bfloat16_are_float32() -> None:
    torch.manual_seed(0)
    x = 3 + torch.randn(64, 4, 8, 8).bfloat16()
    mean, variance = _Moments.apply(x)
    assert mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(mean, x.float().mean(dim=(0, 2, 3)))
    torch.testing.assert_close(variance, x.float().var(dim=(0, 2, 3), unbiased=False), rtol=1e-3, atol=1e-4)


def sums(centre: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
    """As the paper has them, and as autograd sees them."""
    active, inactive = (centre - radius > 0).to(centre), (centre + radius < 0).to(centre)
    spread = (centre - centre.mean(dim=0)).square()
    return tuple((mask * each).sum() for each in (centre.abs(), spread) for mask in (active, inactive))


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_the_regulariser_are_their_formulas_with_their_gradients(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for laid_out in in_both_layouts(shape):
        centre = laid_out(torch.randn(shape, dtype=torch.float64)).requires_grad_()
        radius = laid_out(torch.rand(shape, dtype=torch.float64))
        found, wanted = _Sums.apply(centre, radius), sums(centre, radius)
        assert min(wanted) > 0
        weights = torch.tensor([0.3, -1.2, 0.7, 2.0], dtype=torch.float64)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(
            torch.autograd.grad((weights * torch.stack(found)).sum(), centre),
            torch.autograd.grad((weights * torch.stack(wanted)).sum(), centre),
        )


def test_nothing_is_asked_of_a_layer_with_one_sign_only() -> None:
    centre = (1 + torch.rand(4, 3)).requires_grad_()
    value = _imbalance(Interval(centre, torch.full((4, 3), 0.1)), 0.5)
    assert value == 0
    (gradient,) = torch.autograd.grad(value, centre)
    assert gradient.abs().max() == 0
