"""The private copy of a classifier that a search differentiates: frozen, laid out for speed, with its surrogates."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from casemate.errors import CasemateError, NoGradient
from casemate.threat import Images


def search_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A frozen copy in eval mode and channels_last whose declared layers use their surrogate on the backward pass."""
    search = copy.deepcopy(model).eval().requires_grad_(False)
    if dtype != torch.float32:
        search = search.to(dtype)
    search = search.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in list(search.modules()):
        if getattr(module, "surrogate", None) is not None:
            _use_surrogate(module)
    return search


def differentiable(logits: Tensor) -> Tensor:
    if not logits.requires_grad:
        raise NoGradient(
            "the model has no gradient with respect to its images: declare a surrogate on the layer that cuts it off"
        )
    return logits


def laid_out(x: Images, dtype: torch.dtype) -> Tensor:
    # Always a copy, because a model may write into its input.
    return x.to(dtype, memory_format=torch.channels_last, copy=True)


class _StraightThrough(torch.autograd.Function):
    """Forward: the exact output; backward: through the stand-in (BPDA, Athalye et al. 2018, section 4.1)."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, stand_in: Tensor) -> Tensor:
        if exact.shape != stand_in.shape:
            raise CasemateError(
                f"a surrogate must return the shape of its layer, {list(exact.shape)}, not {list(stand_in.shape)}"
            )
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def _use_surrogate(module: nn.Module) -> None:
    """Make this (copied) layer answer with its own forward pass and differentiate its surrogate."""
    exact = module.forward
    surrogate: Callable[..., Tensor] = module.surrogate  # type: ignore[assignment]

    def forward(*inputs: Tensor) -> Tensor:
        with torch.no_grad():
            output = exact(*inputs)
        return _StraightThrough.apply(output, surrogate(*inputs))

    module.forward = forward
