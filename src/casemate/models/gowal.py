"""The networks of Gowal et al., 2018 (arXiv:1810.12715), with the normalisation and the initialisation of Shi et al.

Shi, Wang, Zhang, Yi and Hsieh, "Fast certified robust training with short warmup", 2021 (arXiv:2103.17268).
"""

import math
from typing import Literal

from torch import nn

from casemate.errors import CasemateError
from casemate.sizes import at_least

Init = Literal["orthogonal", "ibp", "pytorch"]
# Kernel, multiple of `width`, stride; padded by 1 where the paper says SAME. Then the widths of the hidden layers.
SMALL = ([(4, 1, 2), (4, 2, 1)], 0, (100,))
MEDIUM = ([(3, 1, 1), (4, 1, 2), (3, 2, 1), (4, 2, 2)], 0, (512, 512))
LARGE = ([(3, 1, 1), (3, 1, 1), (3, 2, 2), (3, 2, 1), (3, 2, 1)], 1, (512,))


def gowal_small(
    width: int = 16,
    n_classes: int = 10,
    in_channels: int = 1,
    size: int = 28,
    norm: bool = False,
    init: Init = "orthogonal",
) -> nn.Sequential:
    """Gowal et al. 2018 (arXiv:1810.12715), table 1, small: two convolutions and 100 hidden units.

    Images [N, in_channels, size, size] in [0, 1], not normalised. `norm` puts batch normalisation behind every layer
    but the last, and `init="ibp"` draws the weights of Shi et al. 2021 (section 4.1), with which intervals neither
    grow nor shrink from layer to layer; "orthogonal" is the authors' own. Width 16 on MNIST has 329,606 parameters.
    """
    return _network(SMALL, width, n_classes, in_channels, size, norm, init)


def gowal_medium(
    width: int = 32,
    n_classes: int = 10,
    in_channels: int = 1,
    size: int = 28,
    norm: bool = False,
    init: Init = "orthogonal",
) -> nn.Sequential:
    """Gowal et al. 2018 (arXiv:1810.12715), table 1, medium: four convolutions and twice 512 hidden units.

    Arguments as for the small one.
    """
    return _network(MEDIUM, width, n_classes, in_channels, size, norm, init)


def gowal_large(
    width: int = 64,
    n_classes: int = 10,
    in_channels: int = 1,
    size: int = 28,
    norm: bool = False,
    init: Init = "orthogonal",
) -> nn.Sequential:
    """Gowal et al. 2018 (arXiv:1810.12715), table 1, large: five convolutions and 512 hidden units.

    Arguments as for the small one. With `norm` it is the CNN7 of Shi et al. and of most certified training since.
    """
    return _network(LARGE, width, n_classes, in_channels, size, norm, init)


def _network(
    plan: tuple[list[tuple[int, int, int]], int, tuple[int, ...]],
    width: int,
    n_classes: int,
    in_channels: int,
    size: int,
    norm: bool,
    init: Init,
) -> nn.Sequential:
    convolutions, padding, hidden = plan
    at_least(1, width=width, in_channels=in_channels)
    at_least(2, n_classes=n_classes)
    at_least(16, size=size)
    if init not in ("orthogonal", "ibp", "pytorch"):
        raise CasemateError(f'init must be "orthogonal", "ibp" or "pytorch", got {init!r}')
    layers: list[nn.Module] = []
    n_in = in_channels
    for kernel, multiple, stride in convolutions:
        n_out = multiple * width
        layers += [nn.Conv2d(n_in, n_out, kernel, stride, padding), *_norm(nn.BatchNorm2d(n_out), norm), nn.ReLU()]
        size = (size + 2 * padding - kernel) // stride + 1
        n_in = n_out
    layers.append(nn.Flatten())
    n_in *= size**2
    for n_out in hidden:
        layers += [nn.Linear(n_in, n_out), *_norm(nn.BatchNorm1d(n_out), norm), nn.ReLU()]
        n_in = n_out
    layers.append(nn.Linear(n_in, n_classes))
    _initialise(layers, init)
    return nn.Sequential(*layers)


def _norm(layer: nn.Module, wanted: bool) -> list[nn.Module]:
    return [layer] if wanted else []


def _initialise(layers: list[nn.Module], init: Init) -> None:
    weighted = [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in weighted:
        assert layer.bias is not None
        if init == "orthogonal":
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif init == "ibp" and layer is not weighted[-1]:
            # E|w| n = 1 for n inputs: the radius of an interval keeps its size (Shi et al. 2021, section 4.1).
            nn.init.normal_(layer.weight, std=math.sqrt(2 * math.pi) / layer.weight[0].numel())
            nn.init.zeros_(layer.bias)
