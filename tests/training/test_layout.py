import pytest
import torch
from torch import nn

from casemate import models
from casemate.training.layout import laid_out

CPU = torch.device("cpu")


def is_channels_last(model: nn.Module) -> bool:
    return any(
        weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in model.parameters()
    )


# One has no convolution at all.
@pytest.mark.parametrize("name", [name for name in models.ARCHITECTURES if name != "diffai-ffnn"])
def test_the_architectures_as_published_are_trained_in_the_fast_layout(name: str) -> None:
    with torch.device("meta"):
        model = models.build(name)
    assert is_channels_last(laid_out(model, CPU))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("n_in", [2, 12, 16])
def test_narrow_strided_1x1_convolutions_are_kept_out_of_it_on_a_cpu(n_in: int, stride: int) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, n_in, 3), nn.Conv2d(n_in, 4, 1, stride))

    goes_wrong = n_in < 16 and stride == 2
    assert is_channels_last(laid_out(model(), CPU)) is not goes_wrong
    with torch.device("meta"):
        assert is_channels_last(laid_out(model(), torch.device("cuda")))


def test_weights_gradients_in_the_layout_chosen_are_those_in_float64() -> None:
    model = models.build("preact-resnet", width=2)
    exact = models.build("preact-resnet", width=2).double()
    exact.load_state_dict(model.state_dict())
    model = laid_out(model, CPU).train()
    x = torch.rand(8, 3, 16, 16)
    model(x).square().sum().backward()
    exact.train()(x.double()).square().sum().backward()
    for mine, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(
            mine.grad.double(), theirs.grad, rtol=1e-3, atol=1e-3 * float(theirs.grad.abs().max())
        )
