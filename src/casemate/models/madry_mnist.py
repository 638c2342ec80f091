"""The MNIST networks of Madry, Makelov, Schmidt, Tsipras and Vladu, 2018 (arXiv:1706.06083)."""

from collections import OrderedDict
from typing import Literal

from torch import nn

from casemate.errors import CasemateError
from casemate.sizes import at_least


def madry_mnist(
    scale: int = 16,
    n_classes: int = 10,
    in_channels: int = 1,
    size: int = 28,
    init: Literal["paper", "pytorch"] = "paper",
) -> nn.Sequential:
    """Madry et al. 2018 (arXiv:1706.06083), section 4 and figure 4; scale 16 is the challenge's network.

    Images [N, in_channels, size, size] in [0, 1], not normalised. Two 5x5 convolutions of 2 and 4 `scale` filters, each
    with ReLU and 2x2 max-pooling, and 64 `scale` hidden units. The paper's capacity scale is 1, 2, 4, 8, 16; scale 16
    (32 and 64 filters, 1,024 units; 3,274,634 parameters) is network A of the paper's table 1.

    `init="paper"` draws weights from a normal of standard deviation 0.1 cut at 0.2 and sets biases to 0.1, as the
    authors' code does; "pytorch" keeps PyTorch's own initialisation.
    """
    at_least(1, scale=scale, in_channels=in_channels)
    at_least(2, n_classes=n_classes)
    at_least(4, size=size)
    if init not in ("paper", "pytorch"):
        raise CasemateError(f'init must be "paper" or "pytorch", got {init!r}')
    n_features = 4 * scale * (size // 4) ** 2
    network = nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(in_channels, 2 * scale, 5, padding=2),
            # Pooled before the ReLU, with which it commutes exactly: a quarter of the values to rectify.
            pool1=nn.MaxPool2d(2),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(2 * scale, 4 * scale, 5, padding=2),
            pool2=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(n_features, 64 * scale),
            relu3=nn.ReLU(),
            fc2=nn.Linear(64 * scale, n_classes),
        )
    )
    if init == "paper":
        for name, parameter in network.named_parameters():
            if name.endswith(".bias"):
                nn.init.constant_(parameter, 0.1)
            else:
                nn.init.trunc_normal_(parameter, std=0.1, a=-0.2, b=0.2)
    return network
