import pytest
import torch

from casemate.models import fast_at, small_cnn


def _count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_fast_at_is_the_network_of_the_paper() -> None:
    network = fast_at()
    assert _count(network) == 166_406
    assert network.fc1.in_features == 1568


@pytest.mark.parametrize("size", [4, 5, 28, 30, 32, 33])
@pytest.mark.parametrize("builder", [fast_at, small_cnn])
def test_any_image_size_fits(builder: type, size: int) -> None:
    network = builder(width=2, n_classes=3, in_channels=3, size=size)
    assert network(torch.rand(2, 3, size, size)).shape == (2, 3)


def test_small_cnn_is_small() -> None:
    assert _count(small_cnn()) == 33_546
    assert small_cnn(width=1, size=1)(torch.rand(1, 1, 1, 1)).shape == (1, 10)
