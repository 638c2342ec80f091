import torch
import torch.nn.functional as F
from torch import nn

from casemate.models import tramer_b


def test_it_is_the_network_of_the_authors_code() -> None:
    network = tramer_b()
    assert sum(parameter.numel() for parameter in network.parameters()) == 710_218
    assert [module.p for module in network if isinstance(module, nn.Dropout)] == [0.2, 0.5]
    shapes = []
    x = torch.rand(2, 1, 28, 28)
    for layer in network.eval():
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(64, 14, 14), (128, 5, 5), (128, 1, 1)]


def test_the_first_convolution_is_padded_as_in_tensorflow() -> None:
    """SAME at stride 2: 14 outputs need (14 - 1) 2 + 8 = 34 values, 6 more than there are, half of them before."""
    layer = tramer_b(2).conv1
    x = torch.rand(1, 1, 28, 28)
    expected = F.conv2d(F.pad(x, (3, 3, 3, 3)), layer.weight, layer.bias, stride=2)
    torch.testing.assert_close(layer(x), expected)


def test_dropout_is_off_in_eval_mode() -> None:
    network, x = tramer_b(4), torch.rand(4, 1, 28, 28)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))
