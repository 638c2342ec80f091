import pytest
import torch

from casemate.models import madry_mnist


# Sizes of the paper's capacity scale (figure 4), and one it does not have.
@pytest.mark.parametrize(
    ("scale", "n_parameters"),
    [(1, 13_514), (2, 52_506), (3, 116_986), (4, 206_954), (8, 821_706), (16, 3_274_634)],
)
def test_parameter_counts(scale: int, n_parameters: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in madry_mnist(scale).parameters()) == n_parameters


def test_other_images_and_classes() -> None:
    network = madry_mnist(1, n_classes=2, in_channels=3, size=33)
    assert network(torch.rand(2, 3, 33, 33)).shape == (2, 2)


def test_the_papers_initialisation() -> None:
    torch.manual_seed(0)
    for name, parameter in madry_mnist(8).named_parameters():
        if name.endswith("bias"):
            assert torch.equal(parameter, torch.full_like(parameter, 0.1))
        else:
            assert parameter.abs().max() <= 0.2
    weight = madry_mnist(8).fc1.weight
    # A normal cut at 2 standard deviations keeps 0.8796 of its standard deviation.
    assert weight.std().item() == pytest.approx(0.08796, rel=0.01)
    assert weight.mean().item() == pytest.approx(0.0, abs=1e-3)


def test_pytorchs_initialisation() -> None:
    weight = madry_mnist(4, init="pytorch").fc1.weight
    assert weight.abs().max() <= 784**-0.5
