"""Linear bounds with lower lines chosen for each row: alpha-CROWN (Xu et al. 2021, arXiv:2011.13824)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from casemate.bounds.coefficients import Bounds, Coefficients, Dense
from casemate.bounds.linear import LinearBounds
from casemate.bounds.operations import LeakyReLU
from casemate.bounds.specification import Margins, differences
from casemate.losses import Labels

# The rate of Adam and by what it shrinks each step.
RATE, DECAY = 0.25, 0.97
# How many times the memory of one pass back what is kept for gradients, and the state of Adam, take.
KEPT = 8


@dataclass(eq=False)
class OptimisedBounds(LinearBounds):
    """Linear bounds in which those of the inputs of activations are optimised as well, each row with its own slopes.

    A bound of an inner entry is the best for every margin where it is the tightest, so each is optimised for itself,
    from the first layer to the last, some rows at a time. It costs `n_steps` times what `LinearBounds` does, and more.
    """

    n_steps: int = 20

    def _at_least(self, place: int, coefficients: Coefficients) -> Bounds:
        return optimised(self, place, coefficients, self.n_steps)

    def _rows_at_once(self, place: int) -> int:
        return max(1, super()._rows_at_once(place) // KEPT)


def optimised_margins(bounds: LinearBounds, y: Labels, n_steps: int) -> Margins:
    """The best margins that `n_steps` find. The bounds of the inputs of activations stay as they are."""
    rows = differences(y, bounds.graph.n_classes).to(bounds.image.centre)
    return optimised(bounds, len(bounds.graph.nodes) - 1, Dense(rows), n_steps)


def optimised(bounds: LinearBounds, place: int, rows: Coefficients, n_steps: int) -> Bounds:
    """What rows of the result of the node `place` are at least, by `n_steps` of projected Adam on the slopes of each.

    Never below the bounds of the slopes at first. Rows that are proved to be above 0 need no better slopes.
    """
    seen: dict[int, Coefficients] = {}
    with torch.no_grad():
        first = bounds.lower(place, rows, seen=seen)
        slopes = {at: _first_slopes(bounds, at, form).requires_grad_() for at, form in seen.items() if at}
    if not slopes:
        return first
    best = {at: slope.detach().clone() for at, slope in slopes.items()}
    found = first.new_full(first.shape, -torch.inf)
    adam = torch.optim.Adam(slopes.values(), lr=RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, DECAY)
    for step in range(n_steps + 1):
        with torch.enable_grad():
            tried = bounds.lower(place, rows, slopes, rounded=False)
        # A row that is proved stays as it is, so that it does not depend on those beside it.
        better = (tried.detach() > found) & (found <= 0)
        found = torch.where(better, tried.detach(), found)
        for at, slope in slopes.items():
            best[at] = torch.where(better.view(*better.shape, *(1 for _ in slope.shape[2:])), slope.detach(), best[at])
        if step == n_steps or bool((found > 0).all()):
            break
        adam.zero_grad()
        with torch.enable_grad():
            (-tried[found <= 0].sum()).backward()
        adam.step()
        schedule.step()
        with torch.no_grad():
            for at, slope in slopes.items():
                slope.clamp_(_leak(bounds, at), 1)
    with torch.no_grad():
        return torch.maximum(bounds.lower(place, rows, best), first)


def _first_slopes(bounds: LinearBounds, at: int, form: Coefficients) -> Tensor:
    """Those of the first bounds, for every row, in the form of the coefficients there."""
    return form.per_entry(bounds.relaxed(at).below.slope).expand(form.values.shape).clone()


def _leak(bounds: LinearBounds, place: int) -> float:
    operation = bounds.graph.nodes[place].operation
    assert isinstance(operation, LeakyReLU)
    return operation.slope
