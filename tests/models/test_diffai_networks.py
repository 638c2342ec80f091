"""DiffAI's networks: as large as printed, and all within reach of the bounds."""

import pytest
import torch

from casemate import models
from casemate.bounds import IBP
from casemate.threat import Linf

MNIST = {"ffnn": 119_910, "conv-small": 89_606, "conv-med": 166_406, "conv-big": 1_974_762}
CIFAR10 = {"ffnn": 348_710, "conv-small": 125_318, "conv-med": 214_918, "conv-big": 2_466_858}
NAMES = [*MNIST, "conv-super", "conv-skip", "resnet-tiny", "skipnet18"]


@pytest.mark.parametrize("name", MNIST)
def test_the_printed_numbers_of_parameters(name: str) -> None:
    for shape, counts in (({}, MNIST), ({"in_channels": 3, "size": 32}, CIFAR10)):
        network = models.build(f"diffai-{name}", **shape)
        assert sum(parameter.numel() for parameter in network.parameters()) == counts[name]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_bounds_hold_what_random_points_do(name: str, norm: bool) -> None:
    torch.manual_seed(0)
    network = models.build(f"diffai-{name}", in_channels=1, size=16, norm=norm).eval()
    x = torch.rand(2, 1, 16, 16)
    threat = Linf(0.001)
    y = network(x).argmax(dim=1)
    proved = IBP().certify(network, x, y, threat)
    assert proved.margin.isfinite().all()
    points = (x + (2 * torch.rand(50, *x.shape) - 1) * threat.eps).clamp(0, 1)
    logits = network(points.flatten(0, 1)).view(50, 2, 10)
    own = logits.gather(2, y.expand(50, 2)[..., None]).squeeze(2)
    rival = logits.scatter(2, y.expand(50, 2)[..., None], -torch.inf).amax(dim=2)
    assert ((own - rival).amin(dim=0) >= proved.margin).all()
