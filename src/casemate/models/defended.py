"""Small networks that have to be trained with their defence, which changes what the next layer sees."""

import math
from collections import OrderedDict
from typing import Literal, get_args

from torch import nn

from casemate.defences.crop_rescale import CropRescale
from casemate.defences.k_winners import with_k_winners
from casemate.defences.resize_pad import ResizePad
from casemate.defences.thermometer import Thermometer
from casemate.errors import CasemateError
from casemate.models.small import small_cnn

Defence = Literal["thermometer", "k-winners", "resize-pad", "crop"]


def defended_cnn(
    defence: Defence = "k-winners", width: int = 16, n_classes: int = 10, in_channels: int = 3, size: int = 32
) -> nn.Module:
    """`small_cnn` with a defence that Athalye et al. 2018 or Tramer et al. 2020 broke, at its own settings.

    Images [N, in_channels, size, size] in [0, 1]. "thermometer" is the code of `Thermometer` before the network,
    "resize-pad" `ResizePad` before one of the padded size, "crop" one draw of `CropRescale` before it, and "k-winners"
    has `KWinners` in the place of the activations. The other arguments are those of `small_cnn`. Width 16 on CIFAR-10
    has 40,314 parameters behind a thermometer and 33,834 with k-winners.
    """
    if defence == "thermometer":
        code = Thermometer()
        return _behind(code, small_cnn(width, n_classes, code.n_levels * in_channels, size))
    if defence == "k-winners":
        return with_k_winners(small_cnn(width, n_classes, in_channels, size))
    if defence == "resize-pad":
        padding = ResizePad()
        return _behind(padding, small_cnn(width, n_classes, in_channels, math.ceil(padding.ratio * size)))
    if defence == "crop":
        return _behind(CropRescale(), small_cnn(width, n_classes, in_channels, size))
    raise CasemateError(f"there is no defence {defence!r} to build: choose one of {', '.join(get_args(Defence))}")


def _behind(defence: nn.Module, network: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(defence=defence, network=network))
