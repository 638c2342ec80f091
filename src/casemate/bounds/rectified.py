"""What becomes of a centre and a radius behind a ReLU, with its gradient, in few passes over the memory.

c' = (relu(c + r) + relu(c - r)) / 2 and r' = (relu(c + r) - relu(c - r)) / 2, as Gowal et al. 2018 have it in section
3.1. Step by step these are eight passes, and ten for the gradient: a fifth of a training step.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Entries that the steps are taken on together, few enough to stay in the cache of a core.
TOGETHER = 2**16


def rectified(centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """The centre and the radius of the ReLU of an interval, up to rounding; differentiable once."""
    found: tuple[Tensor, Tensor] = _Rectified.apply(centre, radius)
    return found


class _Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        new_centre, new_radius = torch.empty_like(centre), torch.empty_like(centre)
        for c, r, c_out, r_out in _parts(centre, radius, new_centre, new_radius):
            lower = (c - r).clamp_(min=0)
            torch.lerp(lower, (c + r).clamp_(min=0), 0.5, out=c_out)
            torch.sub(c_out, lower, out=r_out)
        ctx.save_for_backward(new_centre, new_radius)
        return new_centre, new_radius

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_centre: Tensor, to_radius: Tensor) -> tuple[Tensor, Tensor]:
        centre, radius = ctx.saved_tensors
        grad_centre, grad_radius = torch.empty_like(centre), torch.empty_like(centre)
        for c, r, to_c, to_r, c_out, r_out in _parts(centre, radius, to_centre, to_radius, grad_centre, grad_radius):
            # The upper end is above 0 where the new centre is, the lower end where that is above the new radius.
            upper = _where_above_0(c, to_c + to_r)
            lower = _where_above_0(c - r, to_c - to_r)
            torch.lerp(lower, upper, 0.5, out=c_out)
            torch.sub(c_out, lower, out=r_out)
        return grad_centre, grad_radius


def _where_above_0(of: Tensor, gradient: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward.grad_input(gradient, of, 0, grad_input=gradient)


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some images of each at a time, on a processor; elsewhere all at once."""
    first = tensors[0]
    if first.device.type != "cpu" or not len(first):
        return iter([tensors])
    n = max(1, TOGETHER * len(first) // max(first.numel(), 1))
    return zip(*(tensor.split(n) for tensor in tensors), strict=True)
