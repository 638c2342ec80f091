"""What batch normalisation makes of a batch, for bounds that are to use the same mean and variance."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Statistics = dict[nn.Module, tuple[Tensor, Tensor]]


@contextmanager
def recording(model: nn.Module) -> Iterator[Statistics]:
    """The mean and variance of the batch at every layer of batch normalisation that trains, while open."""
    found: Statistics = {}

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found[module] = _Moments.apply(inputs[0])

    hooks = [norm.register_forward_pre_hook(note) for norm in _training(model)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def normalises(model: nn.Module) -> bool:
    """Whether a layer of batch normalisation trains."""
    return any(_training(model))


def _training(model: nn.Module) -> Iterator[nn.Module]:
    norms = (module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d))
    return (norm for norm in norms if norm.training)


class _Moments(torch.autograd.Function):
    """Mean and variance by channel of x [batch, channel, ...], in float32 or better.

    By the kernels of batch normalisation, which take one pass each way: `var` and its gradient take ten times as long.
    """

    # So that no variance is divided by zero; float64 has it subtracted again without loss.
    EPS = 1e-12

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        # With weights of that type the moments are of it too.
        ones = torch.ones(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        zeros = torch.zeros_like(ones)
        _, mean, deviations = torch.native_batch_norm(x, ones, zeros, None, None, True, 0.0, _Moments.EPS)
        ctx.save_for_backward(x, mean)
        return mean, (deviations.double() ** -2 - _Moments.EPS).clamp(min=0).to(deviations)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_mean: Tensor, d_variance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        n = x.numel() / x.shape[1]
        # d_mean / n + 2 d_variance (x - mean) / n, as the normalisation by a variance of 1.
        return F.batch_norm(x, mean, torch.ones_like(mean), 2 * d_variance / n, d_mean / n, eps=_Moments.EPS)
