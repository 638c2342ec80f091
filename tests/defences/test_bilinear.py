"""Values between pixels stay in [0, 1] and keep their whole gradient, also on black and white."""

import torch

from casemate.defences.bilinear import interpolate


def positions(n: int, size_out: int, size: int) -> torch.Tensor:
    """Inside the image, on its pixels and beyond both ends."""
    return torch.rand(n, size_out) * (size + 3) - 2


def test_values_are_those_of_a_plane_inside_and_of_the_border_outside() -> None:
    rows, columns = positions(20, 9, 6), positions(20, 11, 7)
    rows[:, 0], columns[:, 0] = 2, 3
    down, across = torch.arange(6)[:, None] / 20, torch.arange(7) / 15
    plane = (down + across).expand(20, 2, 6, 7)
    expected = rows.clamp(0, 5)[:, :, None] / 20 + columns.clamp(0, 6)[:, None, :] / 15
    assert torch.allclose(interpolate(plane, rows, columns), expected[:, None].expand(-1, 2, -1, -1), atol=1e-6)


def test_white_stays_white_with_the_gradient_that_grey_has() -> None:
    rows, columns = positions(50, 40, 32), positions(50, 40, 32)
    towards = torch.rand(50, 3, 40, 40)
    gradients = []
    for value in (1.0, 0.5, 0.0):
        x = torch.full((50, 3, 32, 32), value, requires_grad=True)
        answer = interpolate(x, rows, columns)
        assert 0 <= answer.min() <= answer.max() <= 1
        assert torch.allclose(answer, torch.tensor(value), atol=1e-6)
        gradients += torch.autograd.grad((towards * answer).sum(), x)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[2], gradients[1])
    # Each output is a mean of inputs, so the weights of all inputs together are those of all outputs.
    assert torch.allclose(gradients[0].sum(), towards.sum())
