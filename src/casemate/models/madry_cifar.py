"""The CIFAR-10 residual networks of Madry, Makelov, Schmidt, Tsipras and Vladu, 2018 (arXiv:1706.06083).

Pre-activation residual units without a learned projection, as in the authors' challenge code: where the width grows,
the shortcut is average-pooled by the stride and the new channels are zeros, half before and half after the old ones.
"""

import math
from collections import OrderedDict

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from casemate.classifier import Images, PerImageStandardise
from casemate.sizes import at_least

UNITS_PER_GROUP = 5
LEAK = 0.1


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions, each after batch normalisation and leaky ReLU, added to the shortcut.

    `shared_activation` puts the first activation before the branches part, so the shortcut carries it too.
    Images [N, n_in, H, W] to [N, n_out, H / stride, W / stride].
    """

    def __init__(self, n_in: int, n_out: int, stride: int, *, shared_activation: bool) -> None:
        super().__init__()
        self.shared_activation = shared_activation
        self.stride = stride
        self.n_padding = (n_out - n_in) // 2
        self.activation1 = _activation(n_in)
        self.conv1 = _convolution(n_in, n_out, stride)
        self.activation2 = _activation(n_out)
        self.conv2 = _convolution(n_out, n_out, 1)

    def forward(self, x: Images) -> Float[Tensor, "batch channel_out height_out width_out"]:
        activated = self.activation1(x)
        residual = self.conv2(self.activation2(self.conv1(activated)))
        return residual + self._shortcut(activated if self.shared_activation else x)

    def _shortcut(self, x: Images) -> Float[Tensor, "batch channel_out height_out width_out"]:
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        return F.pad(x, (0, 0, 0, 0, self.n_padding, self.n_padding)) if self.n_padding else x


def madry_cifar(width: int = 1, n_classes: int = 10, in_channels: int = 3) -> nn.Sequential:
    """Madry et al. 2018 (arXiv:1706.06083), section 5 and table 2; width 1 is simple, width 10 is wide (w32-10).

    Images [N, in_channels, H, W] in [0, 1] with H and W multiples of 4, standardised inside one by one. A stem of 16
    filters, three groups of five units with 16, 32 and 64 times `width` filters and strides 1, 2, 2. Width 1 has
    464,154 parameters, width 10 has 45,901,914. Initialisation as in the authors' code: convolutions from
    N(0, 2 / (9 filters)), the last layer uniform with variance 1 / inputs and biases of 0.
    """
    at_least(1, width=width, in_channels=in_channels)
    at_least(2, n_classes=n_classes)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        standardise=PerImageStandardise(), stem=_convolution(in_channels, 16, 1)
    )
    n_in = 16
    for group, (n_out, stride) in enumerate([(16 * width, 1), (32 * width, 2), (64 * width, 2)], start=1):
        for unit in range(1, UNITS_PER_GROUP + 1):
            first = unit == 1
            layers[f"unit{group}_{unit}"] = ResidualUnit(
                n_in, n_out, stride if first else 1, shared_activation=first and group == 1
            )
            n_in = n_out
    layers.update(
        activation=_activation(n_in),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=_linear(n_in, n_classes),
    )
    return nn.Sequential(layers)


def _linear(n_in: int, n_out: int) -> nn.Linear:
    linear = nn.Linear(n_in, n_out)
    limit = math.sqrt(3 / n_in)
    nn.init.uniform_(linear.weight, -limit, limit)
    nn.init.zeros_(linear.bias)
    return linear


def _activation(n_channels: int) -> nn.Sequential:
    # TensorFlow's decay of 0.9 is PyTorch's momentum of 0.1.
    return nn.Sequential(nn.BatchNorm2d(n_channels, eps=1e-3, momentum=0.1), nn.LeakyReLU(LEAK))


def _convolution(n_in: int, n_out: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(n_in, n_out, 3, stride, padding=1 if stride == 1 else 0, bias=False)
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / (9 * n_out)))
    if stride == 1:
        return convolution
    # TensorFlow's SAME padding at stride 2 and even sizes: nothing before, one row and column after.
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), convolution)
