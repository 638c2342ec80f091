"""The ReLU of an interval in few passes: what the rule for functions that grow says, and its gradient."""

import pytest
import torch

from casemate.bounds import Interval, Intervals, Tracing, least_margins, propagate
from casemate.bounds import rectified as module
from casemate.bounds.rectified import rectified


@pytest.mark.parametrize("together", [1, 40, 2**16])
@pytest.mark.parametrize("shape", [(7, 3, 5, 5), (4, 9), (0, 3)])
def test_values_and_gradients_are_those_of_both_ends(shape, together, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(module, "TOGETHER", together)
    torch.manual_seed(0)
    centre, radius = torch.randn(shape).double().requires_grad_(), torch.rand(shape).double().requires_grad_()
    upper, lower = torch.relu(centre + radius), torch.relu(centre - radius)
    expected = (upper + lower) / 2, (upper - lower) / 2
    found = rectified(centre, radius)
    weights = torch.randn(2, *shape).double()
    gradients = [
        torch.autograd.grad((one * weights[0] + other * weights[1]).sum(), (centre, radius))
        for one, other in (expected, found)
    ]
    for one, other in zip((*expected, *gradients[0]), (*found, *gradients[1]), strict=True):
        assert torch.allclose(one, other, rtol=1e-14, atol=1e-15)


def test_entries_of_known_sign_and_points_are_left_whole_or_zero() -> None:
    centre, radius = torch.tensor([[3.0, -3.0, 1.0, -1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]])
    found = rectified(centre.requires_grad_(), radius.requires_grad_())
    assert torch.equal(found[0], torch.tensor([[3.0, 0.0, 1.0, 0.0, 0.0]]))
    assert torch.equal(found[1], torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]]))
    to_centre, to_radius = torch.autograd.grad(found[0].sum(), (centre, radius))
    assert torch.equal(to_centre, torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]]))
    assert not to_radius.any()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_layout_of_images_stays(memory_format: torch.memory_format) -> None:
    centre = torch.randn(4, 3, 5, 6).contiguous(memory_format=memory_format)
    for part in rectified(centre, torch.rand_like(centre)):
        assert part.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("n_images", [2, 30])
def test_margins_by_pairs_of_classes_are_those_by_rows_of_images(n_images: int) -> None:
    """30 images of 5 classes take the table of pairs, 2 do not."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    x, y = torch.rand(n_images, 3, 2, 2), torch.arange(n_images) % 5
    graph = Tracing(model, x).graph()
    values = propagate(graph, Intervals(), Interval(x, torch.rand_like(x)))
    alone = torch.cat([_margins(graph, values, y, at) for at in range(n_images)])
    assert torch.allclose(least_margins(graph, None, values, y), alone, atol=1e-6)


def _margins(graph, values, y, at) -> torch.Tensor:  # type: ignore[no-untyped-def]
    one = [Interval(value.centre[at : at + 1], value.radius[at : at + 1]) for value in values]
    return least_margins(graph, None, one, y[at : at + 1])
