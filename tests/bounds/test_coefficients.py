"""Coefficients kept as windows are the coefficients."""

import pytest
import torch
from torch import nn

from casemate.bounds.coefficients import Dense, Windowed, units
from casemate.bounds.operations import Conv2d, Scale

SHAPE = (3, 9, 8)


def every_unit(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel())[None]


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, (3, 2), stride=2, padding=(1, 0)),
        nn.Conv2d(3, 4, 2, dilation=2, padding=2),
        nn.Conv2d(3, 4, 4, stride=3),
    ],
    ids=str,
)
def test_windows_through_convolutions_and_scales(convolution: nn.Conv2d) -> None:
    torch.manual_seed(0)
    convolution.double().requires_grad_(False)
    second = nn.Conv2d(4, 2, 2, stride=1, padding=1).double().requires_grad_(False)
    x = torch.rand(1, *SHAPE).double()
    between, last = convolution(x), second(convolution(x))
    places, like = every_unit(last.shape[1:]), torch.zeros((), dtype=torch.float64)
    rows = units(places, tuple(last.shape[1:]), 1, like)
    assert isinstance(rows, Windowed)
    back = _of(second, tuple(between.shape[1:]))
    scale = Scale(torch.randn(*between.shape[1:]).double(), None)
    first = _of(convolution, SHAPE)
    windowed = rows.before(back).before(scale).before(first)
    dense = rows.dense().before(back).before(scale).before(first)
    assert isinstance(dense, Dense)
    torch.testing.assert_close(windowed.dense().values, dense.values)
    entries = torch.rand(1, *SHAPE).double()
    torch.testing.assert_close(
        windowed.sum(windowed.values, entries), dense.sum(dense.values, entries), rtol=1e-9, atol=1e-12
    )
    # And both are the rows of the matrix of the two convolutions.
    bare = rows.before(back).before(first)
    values = bare.sum(bare.values, x)[0]
    without_bias = second._conv_forward(convolution._conv_forward(x, convolution.weight, None), second.weight, None)
    torch.testing.assert_close(values, without_bias.flatten())


def _of(layer: nn.Conv2d, shape: tuple[int, ...]) -> Conv2d:
    assert not isinstance(layer.padding, str)
    stride, dilation, padding = (value[:2] for value in (layer.stride, layer.dilation, layer.padding))
    return Conv2d(layer.weight, None, stride, padding, dilation, layer.groups, shape)  # type: ignore[arg-type]


def test_windows_hold_less_than_everything() -> None:
    layer = _of(nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False), (3, 28, 28))
    rows = units(every_unit((4, 28, 28))[:, :100], (4, 28, 28), -1, torch.zeros(()))
    assert rows.before(layer).values.shape == (1, 100, 3, 3, 3)
    assert rows.values.min() == -1
