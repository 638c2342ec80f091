"""Networks small enough to train robustly on two processor cores."""

from collections import OrderedDict

from torch import nn

from casemate.sizes import at_least


def fast_at(width: int = 16, n_classes: int = 10, in_channels: int = 1, size: int = 28) -> nn.Sequential:
    """The MNIST network of Fast AT: Wong, Rice and Kolter, 2020 (arXiv:2001.03994).

    Images [N, in_channels, size, size] in [0, 1], not normalised. Two 4x4 convolutions at stride 2 with `width` and
    twice `width` filters and 100 hidden units. Width 16 on MNIST has 166,406 parameters.
    """
    at_least(1, width=width, in_channels=in_channels)
    at_least(2, n_classes=n_classes)
    at_least(4, size=size)
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(in_channels, width, 4, stride=2, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(2 * width * (size // 4) ** 2, 100),
            relu3=nn.ReLU(),
            fc2=nn.Linear(100, n_classes),
        )
    )


def small_cnn(width: int = 16, n_classes: int = 10, in_channels: int = 1, size: int = 28) -> nn.Sequential:
    """Casemate's own: three strided convolutions and one linear layer, for tests and first tries.

    Images [N, in_channels, size, size] in [0, 1], not normalised. 3x3 convolutions at stride 2 with 1, 2 and 4 times
    `width` filters. Width 16 on MNIST has 33,546 parameters.
    """
    at_least(1, width=width, in_channels=in_channels, size=size)
    at_least(2, n_classes=n_classes)
    final_size = -(-size // 8)
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(in_channels, width, 3, stride=2, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            fc=nn.Linear(4 * width * final_size**2, n_classes),
        )
    )
