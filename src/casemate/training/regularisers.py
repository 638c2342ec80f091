"""What keeps intervals tight and ReLUs balanced while eps grows (Shi et al. 2021, arXiv:2103.17268, section 4.3)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from casemate.bounds import Interval
from casemate.bounds.graph import Graph
from casemate.bounds.operations import LeakyReLU


def tightness_and_balance(graph: Graph, values: Sequence[Interval], tolerance: float = 0.5) -> Tensor:
    """The regularisers of Shi et al. 2021 (equations 9 and 10), summed, each a mean over the layers of ReLUs.

    Tightness asks that the mean radius before a ReLU is not more than 1 / `tolerance` of the image's. Balance asks the
    same of the sums of the centres of the intervals that are all positive and of those that are all negative, and of
    their variances, both ways round.
    """
    before = [values[node.inputs[0]] for node in graph.nodes if isinstance(node.operation, LeakyReLU)]
    tight = [F.relu(tolerance - values[0].radius.mean() / value.radius.mean().clamp(min=1e-12)) for value in before]
    balance = [_imbalance(value, tolerance) for value in before]
    return (torch.stack(tight).mean() + torch.stack(balance).mean()) / tolerance


def _imbalance(value: Interval, tolerance: float) -> Tensor:
    sums = _Sums.apply(value.centre, value.radius)
    total = sums[0].new_zeros(())
    for positive, negative in (sums[:2], sums[2:]):
        # Where one of them is empty there is nothing to balance; asked of tensors, so that no device is waited for.
        both = (positive > 0) & (negative > 0)
        positive, negative = (torch.where(both, side, 1) for side in (positive, negative))
        ratio = torch.minimum(positive / negative, negative / positive)
        total = total + torch.where(both, F.relu(tolerance - ratio), 0)
    return total


class _Sums(torch.autograd.Function):
    """Of the centres of intervals that are positive and of those that are negative: the sum of their magnitudes, each,
    then that of their squared distances from the mean of the batch, each. All in float32 or better.

    Written out because autograd takes four times as many passes over centres and masks as it needs.
    """

    @staticmethod
    def forward(ctx: Any, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.shape = centre.movedim(1, -1).shape
        centre, radius = _rows(centre), _rows(radius)
        # 1 or 0, straight into the type of the centres: a comparison that is cast afterwards takes ten times as long.
        active = torch.gt(centre, radius, out=torch.empty_like(centre))
        inactive = torch.lt(centre, -radius, out=torch.empty_like(centre))
        distance = centre - _mean(centre)
        ctx.save_for_backward(active, inactive, distance)
        spread = distance.square()
        positive, negative = (active * centre).sum(), -(inactive * centre).sum()
        return positive, negative, (active * spread).sum(), (inactive * spread).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        active, inactive, distance = ctx.saved_tensors
        d_positive, d_negative, d_active, d_inactive = grads
        d_centre = (active * (2 * d_active)).add_(inactive * (2 * d_inactive)).mul_(distance)
        # The mean moves with every image.
        d_centre -= _mean(d_centre)
        d_centre.add_(active * d_positive).sub_(inactive * d_negative)
        return d_centre.view(ctx.shape).movedim(-1, 1), None


def _rows(x: Tensor) -> Tensor:
    """A row for each image, without a copy where the layout is channels_last."""
    return x.movedim(1, -1).flatten(1)


def _mean(rows: Tensor) -> Tensor:
    """Over the batch; as a product, which is ten times as fast as `mean` over the first axis in bfloat16."""
    return torch.full((1, len(rows)), 1 / len(rows), dtype=rows.dtype, device=rows.device) @ rows
