import pytest
import torch
from torch import nn

from casemate.models import preact_resnet
from casemate.models.preact_resnet import PreActBlock


def _expected_parameters(width: int, n_classes: int) -> int:
    """Counted layer by layer: convolutions without bias, two numbers per normalised channel."""
    n_in, total = width, 3 * 9 * width
    for n_out in (width, 2 * width, 4 * width, 8 * width):
        total += 2 * n_in + 9 * n_in * n_out + 2 * n_out + 9 * n_out * n_out  # first block
        total += 0 if n_in == n_out else n_in * n_out  # its projection
        total += 2 * (2 * n_out + 9 * n_out * n_out)  # second block
        n_in = n_out
    return total + 2 * n_in + n_in * n_classes + n_classes


@pytest.mark.parametrize(("width", "n_classes"), [(64, 10), (16, 100), (1, 2)])
def test_parameter_counts(width: int, n_classes: int) -> None:
    with torch.device("meta"):
        n_parameters = sum(parameter.numel() for parameter in preact_resnet(width, n_classes).parameters())
    assert n_parameters == _expected_parameters(width, n_classes)


def test_eighteen_layers_and_three_projections() -> None:
    network = preact_resnet(2)
    kernels = [module.kernel_size for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert kernels.count((3, 3)) == 17
    assert kernels.count((1, 1)) == 3
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_the_shortcut_is_the_input_or_a_projection_of_the_activation() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    plain, strided = PreActBlock(4, 4, 1).eval(), PreActBlock(4, 8, 2).eval()
    for block in (plain, strided):
        nn.init.zeros_(block.conv2.weight)
    assert torch.equal(plain(x), x)
    assert strided.projection is not None
    torch.testing.assert_close(strided(x), strided.projection(torch.relu(x / (1 + 1e-5) ** 0.5)))


def test_normalisation_is_inside() -> None:
    layer = preact_resnet(1).normalise
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
    torch.testing.assert_close(layer(mean), torch.zeros(1, 3, 1, 1))
