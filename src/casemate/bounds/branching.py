"""Branch and bound over the signs of ReLUs (Bunel et al. 2020, JMLR 21), with the bounds of `splits`."""

import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from casemate.bounds.certifiers import AlphaCROWN
from casemate.bounds.coefficients import Dense
from casemate.bounds.linear import LinearBounds, differences
from casemate.bounds.optimised import optimised_margins
from casemate.bounds.specification import Margins
from casemate.bounds.splits import Splits, least, unsplit
from casemate.losses import Labels

# Sub-domains in one pass back.
AT_ONCE = 64


@dataclass(frozen=True)
class BranchAndBound(AlphaCROWN):
    """`AlphaCROWN`, and what it leaves open split by signs of ReLUs until all is proved or `timeout` seconds are over.

    The time is that of one image. What the time cuts off says nothing; a proof that is found holds whatever the time.
    A slower machine may find fewer proofs in it, so that `check` may fail to make again what this one proved: give the
    runs that rest on it a `timeout` with room to spare.
    """

    timeout: float = 60.0

    name: ClassVar[str] = "branch-and-bound"
    at_once: ClassVar[int] = 1

    def backward(self, bounds: LinearBounds, y: Labels) -> Margins:
        """The margins by a search for each rival, as long as the one before was proved."""
        deadline = time.monotonic() + self.timeout
        margins = optimised_margins(bounds, y, self.n_steps)
        rows = differences(y, bounds.graph.n_classes).to(bounds.image.centre)[0]
        for rival in margins[0].argsort(descending=True).tolist():
            if margins[0, rival] <= 0:
                margins[0, rival] = search(bounds, rows[rival], self.n_steps, deadline)
                if margins[0, rival] <= 0:
                    break
        return margins


def search(bounds: LinearBounds, row: Tensor, n_steps: int, deadline: float, offset: float = 0.0) -> Tensor:
    """A lower bound of row [classes] times the logits plus `offset` for one image; above 0 where that is proved.

    Gives up, with the bound it has, at the `deadline` of `time.monotonic` and where a sub-domain whose signs are all
    known is not proved.
    """
    open_ = unsplit(bounds)
    if not open_.signs:
        with torch.no_grad():
            return bounds.lower(len(bounds.graph.nodes) - 1, _one(row)).squeeze() + offset
    lows = row.new_full((1,), -torch.inf)
    proved = row.new_tensor(torch.inf)
    while len(lows) and time.monotonic() < deadline:
        order = lows.argsort()
        now, later = order[:AT_ONCE], order[AT_ONCE:]
        part, rest, rest_lows = open_.take(now), open_.take(later), lows[later]
        found, coefficients = least(bounds, row, part, n_steps)
        # A sub-domain is inside its parent, whose bound holds for it too; adding the offset rounds once more.
        found = torch.nan_to_num(found, nan=-torch.inf) + offset
        if offset:
            found = found.nextafter(found.new_tensor(-torch.inf))
        found = torch.maximum(found, lows[now])
        left = found <= 0
        if bool((~left).any()):
            proved = torch.minimum(proved, found[~left].min())
        at = left.nonzero().squeeze(1)
        if not len(at):
            open_, lows = rest, rest_lows
            continue
        halves = _halves(bounds, part.take(at), {place: a[at] for place, a in coefficients.items()})
        if halves is None:
            return torch.minimum(found.min(), proved)
        open_, lows = rest.beside(halves), torch.cat([rest_lows, found[at], found[at]])
    return torch.minimum(lows.min(), proved) if len(lows) else proved


def _one(row: Tensor) -> Dense:
    return Dense(row[None, None])


def _halves(bounds: LinearBounds, splits: Splits, coefficients: dict[int, Tensor]) -> Splits | None:
    """Each sub-domain split at the ReLU whose relaxation costs the bound most (in the manner of BaBSR).

    That is the area's height above for a negative coefficient, which takes the line above, and the least the line
    below can be off by at the ends for a positive one. None where a sub-domain has nothing left to split.
    """
    scores = []
    for source, signs in splits.signs.items():
        lower, upper = bounds.boxes[source].lower, bounds.boxes[source].upper
        free = (lower < 0) & (upper > 0) & (signs == 0)
        a = coefficients.get(source, torch.zeros_like(signs))
        height = torch.where(free, -upper * lower / (upper - lower), 0)
        off = torch.minimum(splits.slopes[source] * -lower, (1 - splits.slopes[source]) * upper)
        score = (-a).clamp(min=0) * height + a.clamp(min=0) * off.clamp(min=0)
        scores.append(torch.where(free, score + 1e-12 * height, -1).flatten(1))
    best, at = torch.cat(scores, dim=1).max(dim=1)
    if bool((best < 0).any()):
        return None
    sizes = [score.shape[1] for score in scores]
    mark = torch.nn.functional.one_hot(at, sum(sizes)).to(splits.slopes[next(iter(splits.slopes))])
    both = []
    for sign in (1, -1):
        half = splits.take(torch.arange(len(splits), device=at.device))
        for source, one in zip(splits.signs, mark.split(sizes, dim=1), strict=True):
            half.signs[source] = half.signs[source] + sign * one.view_as(half.signs[source])
        both.append(half)
    return both[0].beside(both[1])
