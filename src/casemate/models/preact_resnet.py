"""The pre-activation residual network of 18 layers that most CIFAR-10 robustness papers train."""

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn

from casemate.classifier import Images, Normalise
from casemate.sizes import at_least

# Per-channel mean and standard deviation of the 50,000 training images of CIFAR-10, in [0, 1].
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2471, 0.2435, 0.2616)


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after batch normalisation and ReLU, added to the shortcut.

    Where the shape changes, the shortcut is a 1x1 convolution of the first activation; otherwise it is the input.
    Images [N, n_in, H, W] to [N, n_out, H / stride, W / stride], rounded up.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.activation1 = _activation(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.activation2 = _activation(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        changes = stride != 1 or n_in != n_out
        self.projection = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if changes else None

    def forward(self, x: Images) -> Float[Tensor, "batch channel_out height_out width_out"]:
        activated = self.activation1(x)
        residual = self.conv2(self.activation2(self.conv1(activated)))
        return residual + (x if self.projection is None else self.projection(activated))


def preact_resnet(width: int = 64, n_classes: int = 10) -> nn.Sequential:
    """PreAct ResNet-18: He et al. 2016 (arXiv:1603.05027) in the CIFAR form that Fast AT (arXiv:2001.03994) trains.

    Images [N, 3, H, W] in [0, 1], normalised inside with the mean and standard deviation of CIFAR-10. A stem of `width`
    filters and four groups of two blocks with 1, 2, 4 and 8 times `width` filters and strides 1, 2, 2, 2; batch
    normalisation and ReLU after the last one. Width 64 has 11,172,170 parameters.
    """
    at_least(1, width=width)
    at_least(2, n_classes=n_classes)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        normalise=Normalise(CIFAR10_MEAN, CIFAR10_STD), stem=nn.Conv2d(3, width, 3, padding=1, bias=False)
    )
    n_in = width
    for group, stride in enumerate((1, 2, 2, 2)):
        n_out = width * 2**group
        layers[f"group{group + 1}"] = nn.Sequential(PreActBlock(n_in, n_out, stride), PreActBlock(n_out, n_out, 1))
        n_in = n_out
    layers.update(
        activation=_activation(n_in),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(n_in, n_classes),
    )
    return nn.Sequential(layers)


def _activation(n_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(n_channels), nn.ReLU())
