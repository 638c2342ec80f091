"""The nearest point of a hyperplane within the box [0, 1], in linf, l2 and l1: the step of FAB."""

import torch
from jaxtyping import Float
from torch import Tensor

Points = Float[Tensor, "batch values"]
Gaps = Float[Tensor, "batch"]


def change_to_hyperplane(x: Points, normal: Points, gap: Gaps, order: float) -> Points:
    """The least change, in the l`order` norm (torch.inf, 2 or 1), with normal . change = gap and x + change in the box.

    Exact (Croce & Hein 2020, equation 4), up to the rounding of the dtype of `x` [batch, values], which is in [0, 1]. A
    hyperplane beyond the box has no such change; then it is the change to the corner nearest to it. Values whose normal
    is 0 do not move.
    """
    direction = normal.sign() * gap.sign()[:, None]
    room = torch.where(direction > 0, 1 - x, x)
    # Relative to the largest entry, so that products of tiny ones do not underflow.
    largest = normal.abs().amax(dim=1).clamp(min=torch.finfo(normal.dtype).tiny)
    weight, gap = normal.abs() / largest[:, None], gap.abs() / largest
    if order == 1:
        size = _steepest_first(weight, room, gap)
    else:
        size = _all_together(weight, torch.ones_like(weight) if order == torch.inf else weight, room, gap)
    return direction * size


def _steepest_first(weight: Points, room: Points, gap: Gaps) -> Points:
    """Close the gap by the values of largest weight, each up to its room before the next: fewest units moved."""
    weight, order = weight.sort(dim=1, descending=True, stable=True)
    room = room.gather(1, order)
    closed = torch.nn.functional.pad((weight * room).cumsum(dim=1), (1, 0))[:, :-1]
    size = (gap[:, None] - closed) / weight.clamp(min=torch.finfo(weight.dtype).tiny)
    return torch.empty_like(room).scatter_(1, order, torch.minimum(size.clamp(min=0), room))


def _all_together(weight: Points, speed: Points, room: Points, gap: Gaps) -> Points:
    """min(t speed, room) with the one t at which that closes the gap; all of the room where none does.

    The part of the gap that is closed is a concave, piecewise linear function of t. Newton's method from below passes
    at least one of its corners a round and never the root, and ends exactly there: a handful of rounds, each a few
    passes over the values, and without the rounding of sums over sorted corners.
    """
    most, slope = weight * room, weight * speed
    reaches = room / speed
    moves = reaches > 0
    while True:
        stuck = most.masked_fill(moves, 0).sum(dim=1)
        t = ((gap - stuck).clamp(min=0) / slope.masked_fill(~moves, 0).sum(dim=1))[:, None]
        still = moves & (t < reaches)
        if torch.equal(still, moves):
            return torch.where(moves, t * speed, room)
        moves = still
