"""A classifier whose layers declare no surrogate: what autograd makes of it by itself."""

import copy

from torch import nn


def without_surrogates(model: nn.Module) -> nn.Module:
    """A copy whose declared surrogates are not used, to compare them with autograd's own gradient."""
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if getattr(module, "surrogate", None) is not None:
            module.surrogate = None  # type: ignore[assignment]
    return plain


def declares_surrogate(model: nn.Module) -> bool:
    return any(getattr(module, "surrogate", None) is not None for module in model.modules())
