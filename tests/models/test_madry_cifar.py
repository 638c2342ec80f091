import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casemate.models import madry_cifar
from casemate.models.madry_cifar import ResidualUnit


@pytest.mark.parametrize(("width", "n_parameters"), [(1, 464_154), (10, 45_901_914)])
def test_parameter_counts(width: int, n_parameters: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in madry_cifar(width).parameters()) == n_parameters


def _unit(width: int, name: str) -> ResidualUnit:
    """A unit with other than fresh batch statistics whose residual branch is zero: what is left is its shortcut."""
    torch.manual_seed(0)
    unit = madry_cifar(width).get_submodule(name)
    assert isinstance(unit, ResidualUnit)
    for module in unit.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    nn.init.zeros_(unit.conv2.weight)
    return unit.eval()


def test_the_first_shortcut_is_activated_and_padded_with_zero_channels_on_both_sides() -> None:
    unit = _unit(10, "unit1_1")
    x = torch.randn(2, 16, 8, 8)
    out = unit(x)
    norm = unit.activation1[0]
    centred = (x - norm.running_mean.view(-1, 1, 1)) / (norm.running_var.view(-1, 1, 1) + 1e-3).sqrt()
    assert out.shape == (2, 160, 8, 8)
    torch.testing.assert_close(out[:, 72:88], torch.where(centred < 0, 0.1 * centred, centred))
    assert not out[:, :72].any()
    assert not out[:, 88:].any()


def test_later_shortcuts_carry_the_input_itself() -> None:
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(_unit(1, "unit1_2")(x), x)


def test_a_strided_shortcut_is_pooled_by_average_and_padded() -> None:
    x = torch.randn(2, 16, 8, 8)
    out = _unit(1, "unit2_1")(x)
    assert out.shape == (2, 32, 4, 4)
    torch.testing.assert_close(out[:, 8:24], x.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(-2, -1)))
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def _same(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolution with TensorFlow's SAME padding: total padding as needed, the smaller half before."""
    total = max((-(-x.shape[-1] // stride) - 1) * stride + weight.shape[-1] - x.shape[-1], 0)
    before, after = total // 2, total - total // 2
    return F.conv2d(F.pad(x, (before, after, before, after)), weight, stride=stride)


@pytest.mark.parametrize(("name", "stride"), [("unit1_1", 1), ("unit2_1", 2), ("unit3_1", 2)])
def test_convolutions_are_padded_as_in_tensorflow(name: str, stride: int) -> None:
    convolution = madry_cifar(1).get_submodule(name).conv1
    weight = next(convolution.parameters())
    x = torch.randn(1, weight.shape[1], 8, 8)
    torch.testing.assert_close(convolution(x), _same(x, weight, stride))


def test_layout_of_the_whole_network() -> None:
    network = madry_cifar(2)
    assert len([module for module in network.modules() if isinstance(module, ResidualUnit)]) == 15
    assert {(m.eps, m.momentum, m.affine) for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {
        (1e-3, 0.1, True)
    }
    assert {module.negative_slope for module in network.modules() if isinstance(module, nn.LeakyReLU)} == {0.1}
    shapes: dict[str, torch.Size] = {}
    for name in ("stem", "unit1_5", "unit2_5", "unit3_5", "flatten"):
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: shapes.update({name: output.shape[1:]})
        )
    network(torch.rand(2, 3, 32, 32))
    assert {name: tuple(shape) for name, shape in shapes.items()} == {
        "stem": (16, 32, 32),
        "unit1_5": (32, 32, 32),
        "unit2_5": (64, 16, 16),
        "unit3_5": (128, 8, 8),
        "flatten": (128,),
    }


def test_initial_deviations_are_those_of_the_authors_code() -> None:
    torch.manual_seed(0)
    network = madry_cifar(4)
    assert network.unit3_2.conv1.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert network.fc.weight.abs().max() <= (3 / 256) ** 0.5
    assert network.fc.weight.std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert not network.fc.bias.any()


def test_brightness_and_contrast_of_an_image_do_not_matter() -> None:
    torch.manual_seed(0)
    network = madry_cifar(1).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network(0.5 * x + 0.25), network(x), rtol=1e-3, atol=1e-3)
