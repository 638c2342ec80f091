"""Branch and bound over the signs of ReLUs (Bunel et al. 2020, JMLR 21), with the bounds of `splits`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from casemate.bounds.certifiers import AlphaCROWN
from casemate.bounds.coefficients import Dense
from casemate.bounds.linear import WORKING_SET, LinearBounds
from casemate.bounds.optimised import OptimisedBounds, optimised_margins
from casemate.bounds.specification import Margins, differences
from casemate.bounds.splits import Splits, at_first, least, unsplit
from casemate.losses import Labels

# Sub-domains in one pass back, at most.
AT_ONCE = 256
# Steps of a sub-domain, which goes on from what was best for its parent.
N_STEPS = 8
# The ReLUs of which each sub-domain is split at the best, by the bounds of both halves (FSB, De Palma et al. 2021).
N_CANDIDATES = 3
# Sub-domains whose bounds are asked for a counter-example each time.
N_REFUTED = 8


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
        if bool((margins > 0).all()):
            return margins
        bounds = _closer(bounds, self.n_steps, deadline)
        rows = differences(y, bounds.graph.n_classes).to(bounds.image.centre)[0]
        for rival in margins[0].argsort(descending=True).tolist():
            if margins[0, rival] <= 0:
                # Where the time is over before it begins, what is known already is more than a search finds.
                found = search(bounds, rows[rival], self.n_steps, deadline)
                margins[0, rival] = torch.maximum(margins[0, rival], found)
                if margins[0, rival] <= 0:
                    break
        return margins


def _closer(bounds: LinearBounds, n_steps: int, deadline: float) -> OptimisedBounds:
    """`bounds` of one image with those of inner layers optimised: of the most that shortens a search."""
    return OptimisedBounds(
        bounds.graph,
        bounds.threat,
        bounds.x,
        bounds.image,
        bounds.domain,
        bounds.slope,
        deadline=deadline,
        n_steps=n_steps,
    )


def search(
    bounds: LinearBounds,
    row: Tensor,
    n_steps: int,
    deadline: float,
    offset: float = 0.0,
    refuted: Callable[[Tensor], bool] | None = None,
) -> Tensor:
    """A lower bound of row [classes] times the logits plus `offset` for one image; above 0 where that is proved.

    `n_steps` are those of the whole domain. Gives up, with the bound it has, at the `deadline` of `time.monotonic`,
    where a sub-domain whose signs are all known is not proved, and where `refuted` says so of the images
    [some, *image] at which the worst of the bounds are least.
    """
    open_ = unsplit(bounds)
    if not open_.signs:
        with torch.no_grad():
            return bounds.lower(len(bounds.graph.nodes) - 1, _one(row)).squeeze() + offset
    lows = row.new_full((1,), -torch.inf)
    proved = row.new_tensor(torch.inf)
    at_once = _at_once(bounds)
    while len(lows) and time.monotonic() < deadline:
        order = lows.argsort()
        now, later = order[:at_once], order[at_once:]
        part, rest, rest_lows = open_.take(now), open_.take(later), lows[later]
        below = least(bounds, row, part, N_STEPS if bool(lows.isfinite().all()) else n_steps)
        # A sub-domain is inside its parent, whose bound holds for it too; adding the offset rounds once more.
        found = torch.nan_to_num(below.lower, nan=-torch.inf) + offset
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
        if refuted is not None and refuted(below.corner[found.argsort()[:N_REFUTED]]):
            return torch.minimum(found.min(), rest_lows.min() if len(rest_lows) else proved)
        halves = _halves(bounds, row, part.take(at), {place: a[at] for place, a in below.coefficients.items()})
        if halves is None:
            return torch.minimum(found.min(), proved)
        open_, lows = rest.beside(halves), torch.cat([rest_lows, found[at], found[at]])
    return torch.minimum(lows.min(), proved) if len(lows) else proved


def _at_once(bounds: LinearBounds) -> int:
    largest = max(prod(node.shape) for node in bounds.graph.nodes)
    return max(1, min(AT_ONCE, WORKING_SET // (4 * largest * bounds.image.centre.element_size())))


def _one(row: Tensor) -> Dense:
    return Dense(row[None, None])


def _halves(bounds: LinearBounds, row: Tensor, splits: Splits, coefficients: dict[int, Tensor]) -> Splits | None:
    """Each sub-domain split at one ReLU: of those whose relaxations cost the bound most, the one of the best halves.

    None where a sub-domain has nothing left to split.
    """
    scores = _costs(bounds, splits, coefficients)
    sizes = [score.shape[1] for score in scores]
    costs, candidates = torch.cat(scores, dim=1).topk(min(N_CANDIDATES, sum(sizes)), dim=1)
    if bool((costs[:, 0] < 0).any()):
        return None
    gains = torch.full_like(costs, -torch.inf)
    for rank in range(costs.shape[1]):
        first, second = (at_first(bounds, row, half) for half in _split(splits, candidates[:, rank], sizes))
        # The worse half is what has to be proved in the end; a half that is proved already is worth no more than 0.
        gain = torch.minimum(first, second) + 0.1 * torch.maximum(first, second).clamp(max=0)
        gains[:, rank] = torch.where(costs[:, rank] < 0, gains[:, rank], gain)
    best = candidates.gather(1, gains.argmax(dim=1, keepdim=True)).squeeze(1)
    first_half, second_half = _split(splits, best, sizes)
    return first_half.beside(second_half)


def _costs(bounds: LinearBounds, splits: Splits, coefficients: dict[int, Tensor]) -> list[Tensor]:
    """What the relaxation of each ReLU costs the bound, [n, values] for each node that feeds one; -1 for no split.

    In the manner of BaBSR (Bunel et al. 2020): the area's height above for a negative coefficient, which takes the
    line above, and the least that the line below can be off by at the ends for a positive one.
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
    return scores


def _split(splits: Splits, at: Tensor, sizes: list[int]) -> tuple[Splits, Splits]:
    """Each sub-domain's halves by the sign of the entry `at` [n], counted through all nodes of `sizes` entries."""
    mark = torch.nn.functional.one_hot(at, sum(sizes)).to(splits.slopes[next(iter(splits.slopes))])
    halves = []
    for sign in (1, -1):
        half = splits.take(torch.arange(len(splits), device=at.device))
        for source, one in zip(splits.signs, mark.split(sizes, dim=1), strict=True):
            half.signs[source] = half.signs[source] + sign * one.view_as(half.signs[source])
        halves.append(half)
    return halves[0], halves[1]
