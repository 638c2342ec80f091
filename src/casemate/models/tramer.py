"""The MNIST network of Tramer et al. 2018 that Madry et al. 2018 attack from: an architecture unlike their own."""

from collections import OrderedDict

from torch import nn

from casemate.sizes import at_least


def tramer_b(width: int = 64, n_classes: int = 10) -> nn.Sequential:
    """Tramer et al. 2018 (arXiv:1705.07204), appendix: model B for MNIST, and source B of Madry et al. 2018's table 1.

    Images [N, 1, 28, 28] in [0, 1], not normalised. Three convolutions without pooling: 8x8 at stride 2 with `width`
    filters, 6x6 at stride 2 and 5x5 with twice as many, each with ReLU; dropout of 0.2 on the image and of 0.5 before
    the last layer. Width 64 has 710,218 parameters. PyTorch's own initialisation.
    """
    at_least(1, width=width)
    at_least(2, n_classes=n_classes)
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            dropout1=nn.Dropout(0.2),
            # TensorFlow's SAME padding of the authors' code, which is symmetric here; the other two have none.
            conv1=nn.Conv2d(1, width, 8, stride=2, padding=3),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(width, 2 * width, 6, stride=2),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(2 * width, 2 * width, 5),
            relu3=nn.ReLU(),
            dropout2=nn.Dropout(0.5),
            flatten=nn.Flatten(),
            fc=nn.Linear(2 * width, n_classes),
        )
    )
