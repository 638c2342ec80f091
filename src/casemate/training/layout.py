"""The layout in memory of the weights that are trained."""

import torch
from torch import nn

# oneDNN takes channels in blocks of 8 (AVX2) or 16 (AVX-512).
_BLOCK = 16


def laid_out(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` in channels_last, which is faster, unless that is known to go wrong on `device`; in place.

    On a CPU the gradient of the weights of a strided 1x1 convolution with fewer input channels than a block writes
    outside its memory in that layout: wrong gradients, a crash or a hang (uxlfoundation/oneDNN issue 6035).
    """
    if device.type == "cpu" and any(_goes_wrong(module) for module in model.modules()):
        return model
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _goes_wrong(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and tuple(module.kernel_size) == (1, 1)
        and max(module.stride) > 1
        and module.in_channels // module.groups < _BLOCK
    )
