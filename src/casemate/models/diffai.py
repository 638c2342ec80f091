"""The networks of DiffAI: Mirman et al. 2018 (ICML) and 2019 (arXiv:1903.12519), by their names there.

Images [N, in_channels, size, size] in [0, 1], not normalised. `norm` puts batch normalisation behind every convolution
and hidden layer, which theirs do not have.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from casemate.sizes import at_least

# Channels, kernel and stride.
Plan = Sequence[tuple[int, int, int]]
SMALL: Plan = ((16, 4, 2), (32, 4, 2))
BIG: Plan = ((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2))
SUPER: Plan = ((32, 3, 1), (32, 4, 1), (64, 3, 1), (64, 4, 1))


def diffai_ffnn(
    width: int = 100, depth: int = 5, n_classes: int = 10, in_channels: int = 1, size: int = 28, norm: bool = False
) -> nn.Sequential:
    """FFNN of DiffAI (Mirman et al. 2018): five hidden layers of 100 units; 119,910 parameters on MNIST."""
    at_least(1, width=width, depth=depth)
    return nn.Sequential(nn.Flatten(), *_dense(in_channels * size**2, (width,) * depth, n_classes, norm))


def diffai_conv_small(n_classes: int = 10, in_channels: int = 1, size: int = 28, norm: bool = False) -> nn.Sequential:
    """ConvSmall of DiffAI (Mirman et al. 2018): two convolutions without padding; 89,606 parameters on MNIST."""
    return _convolutional(SMALL, 0, (100,), n_classes, in_channels, size, norm)


def diffai_conv_med(n_classes: int = 10, in_channels: int = 1, size: int = 28, norm: bool = False) -> nn.Sequential:
    """ConvMed of DiffAI (Mirman et al. 2018): ConvSmall with padding; 166,406 parameters on MNIST."""
    return _convolutional(SMALL, 1, (100,), n_classes, in_channels, size, norm)


def diffai_conv_big(n_classes: int = 10, in_channels: int = 1, size: int = 28, norm: bool = False) -> nn.Sequential:
    """ConvBig of DiffAI (Mirman et al. 2018): four convolutions; 1,974,762 parameters on MNIST."""
    return _convolutional(BIG, 1, (512, 512), n_classes, in_channels, size, norm)


def diffai_conv_super(n_classes: int = 10, in_channels: int = 1, size: int = 28, norm: bool = False) -> nn.Sequential:
    """ConvSuper of DiffAI (Mirman et al. 2018): four convolutions of stride 1 without padding."""
    return _convolutional(SUPER, 0, (512, 512), n_classes, in_channels, size, norm)


def diffai_conv_skip(n_classes: int = 10, in_channels: int = 1, size: int = 28, norm: bool = False) -> nn.Sequential:
    """ConvSkip of DiffAI (Mirman et al. 2018): two stacks side by side, joined before the last hidden layer."""
    branches = [
        _features([(16, 3, 1), (16, 3, 1), (32, 3, 1)], 0, (200,), in_channels, size, norm),
        _features([(32, 4, 1), (32, 4, 1)], 0, (200,), in_channels, size, norm),
    ]
    return nn.Sequential(_Joined(branches), *_dense(400, (200,), n_classes, norm))


def diffai_resnet_tiny(n_classes: int = 10, in_channels: int = 1, size: int = 28, norm: bool = False) -> nn.Sequential:
    """ResNet-Tiny of DiffAI (Mirman et al. 2019): a convolution, five wide blocks and 500 hidden units.

    A block adds a 1x1 convolution to two of 3x3; the first of 32 channels halves the image, where the paper does not
    say which do.
    """
    blocks = [_Wide(16, 16, 1, norm), _Wide(16, 32, 2, norm), *(_Wide(32, 32, 1, norm) for _ in range(3))]
    half = (size - 2) // 2 + 1
    stem = [nn.Conv2d(in_channels, 16, 3, padding=1), *_norm(nn.BatchNorm2d(16), norm), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.Flatten(), *_dense(32 * half**2, (500,), n_classes, norm))


def diffai_skipnet18(
    width: int = 64, n_classes: int = 10, in_channels: int = 3, size: int = 32, norm: bool = False
) -> nn.Sequential:
    """SkipNet18 of DiffAI (Mirman et al. 2019): ResNet-18 that only keeps the shortcuts which are convolutions.

    Four groups of two blocks with 1, 2, 4 and 8 times `width` channels, then twice 512 hidden units. The mean over each
    channel before these is that of other ResNet-18s for CIFAR-10; the paper does not print it.
    """
    at_least(1, width=width, in_channels=in_channels)
    at_least(16, size=size)
    layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1, bias=not norm)]
    layers += [*_norm(nn.BatchNorm2d(width), norm), nn.ReLU()]
    n_in = width
    for group, stride in enumerate((1, 2, 2, 2)):
        n_out = width * 2**group
        layers += [_Basic(n_in, n_out, stride, norm), _Basic(n_out, n_out, 1, norm)]
        n_in = n_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *_dense(n_in, (512, 512), n_classes, norm))


def _convolutional(
    plan: Plan, padding: int, hidden: Sequence[int], n_classes: int, in_channels: int, size: int, norm: bool
) -> nn.Sequential:
    features = _features(plan, padding, hidden, in_channels, size, norm)
    at_least(2, n_classes=n_classes)
    return features.append(nn.Linear(hidden[-1], n_classes))


def _features(
    plan: Plan, padding: int, hidden: Sequence[int], in_channels: int, size: int, norm: bool
) -> nn.Sequential:
    at_least(1, in_channels=in_channels)
    at_least(16, size=size)
    layers: list[nn.Module] = []
    for n_out, kernel, stride in plan:
        layers += [nn.Conv2d(in_channels, n_out, kernel, stride, padding), *_norm(nn.BatchNorm2d(n_out), norm)]
        layers.append(nn.ReLU())
        size = (size + 2 * padding - kernel) // stride + 1
        in_channels = n_out
    return nn.Sequential(*layers, nn.Flatten(), *_hidden(in_channels * size**2, hidden, norm))


def _dense(n_in: int, hidden: Sequence[int], n_classes: int, norm: bool) -> list[nn.Module]:
    at_least(2, n_classes=n_classes)
    return [*_hidden(n_in, hidden, norm), nn.Linear(hidden[-1], n_classes)]


def _hidden(n_in: int, hidden: Sequence[int], norm: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for n_out in hidden:
        layers += [nn.Linear(n_in, n_out), *_norm(nn.BatchNorm1d(n_out), norm), nn.ReLU()]
        n_in = n_out
    return layers


def _norm(layer: nn.Module, wanted: bool) -> list[nn.Module]:
    return [layer] if wanted else []


class _Joined(nn.Module):
    """The results of all branches, one behind the other."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class _Wide(nn.Module):
    """relu(shortcut + conv(relu(conv))), the shortcut a convolution as well."""

    def __init__(self, n_in: int, n_out: int, stride: int, norm: bool) -> None:
        super().__init__()
        convolution = partial(nn.Conv2d, bias=not norm)
        self.shortcut = nn.Sequential(convolution(n_in, n_out, stride, stride), *_norm(nn.BatchNorm2d(n_out), norm))
        first = convolution(n_in, n_out, 4, 2, 1) if stride == 2 else convolution(n_in, n_out, 3, 1, 1)
        self.residual = nn.Sequential(
            first,
            *_norm(nn.BatchNorm2d(n_out), norm),
            nn.ReLU(),
            convolution(n_out, n_out, 3, 1, 1),
            *_norm(nn.BatchNorm2d(n_out), norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.residual(x)).relu()


class _Basic(nn.Module):
    """relu(conv(relu(conv))), plus a 1x1 convolution as a shortcut where the shape changes."""

    def __init__(self, n_in: int, n_out: int, stride: int, norm: bool) -> None:
        super().__init__()
        convolution = partial(nn.Conv2d, bias=not norm)
        self.residual = nn.Sequential(
            convolution(n_in, n_out, 3, stride, 1),
            *_norm(nn.BatchNorm2d(n_out), norm),
            nn.ReLU(),
            convolution(n_out, n_out, 3, 1, 1),
            *_norm(nn.BatchNorm2d(n_out), norm),
        )
        self.shortcut = None
        if stride != 1 or n_in != n_out:
            projection = convolution(n_in, n_out, 1, stride)
            self.shortcut = nn.Sequential(projection, *_norm(nn.BatchNorm2d(n_out), norm))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.residual(x)
        return (residual if self.shortcut is None else residual + self.shortcut(x)).relu()
