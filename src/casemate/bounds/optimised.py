"""Linear bounds with lower lines chosen for each image and rival: alpha-CROWN (Xu et al. 2021, arXiv:2011.13824)."""

import torch
from torch import Tensor

from casemate.bounds.linear import LinearBounds
from casemate.bounds.operations import LeakyReLU
from casemate.bounds.specification import Margins
from casemate.losses import Labels

# The rate of Adam and by what it shrinks each step.
RATE, DECAY = 0.25, 0.97


def optimised_margins(bounds: LinearBounds, y: Labels, n_steps: int) -> Margins:
    """The best margins that `n_steps` of projected Adam on the slopes find, never below those of the slopes at first.

    The bounds of the inputs of activations stay as they are.
    """
    slopes = _first_slopes(bounds, y)
    if not slopes:
        return bounds.margins(y)
    best = {place: slope.detach().clone() for place, slope in slopes.items()}
    best_margins = bounds.x.new_full((len(y), bounds.graph.n_classes - 1), -torch.inf)
    adam = torch.optim.Adam(slopes.values(), lr=RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, DECAY)
    for step in range(n_steps + 1):
        margins = bounds.margins(y, slopes, rounded=False)
        better = margins.detach() > best_margins
        best_margins = torch.where(better, margins.detach(), best_margins)
        for place, slope in slopes.items():
            rows = better.view(*better.shape, *(1 for _ in slope.shape[2:]))
            best[place] = torch.where(rows, slope.detach(), best[place])
        if step == n_steps or bool((best_margins > 0).all()):
            break
        adam.zero_grad()
        # What is proved already needs no better slopes.
        (-margins[best_margins <= 0].sum()).backward()
        adam.step()
        schedule.step()
        with torch.no_grad():
            for place, slope in slopes.items():
                slope.clamp_(_leak(bounds, place), 1)
    with torch.no_grad():
        return torch.maximum(bounds.margins(y, best), bounds.margins(y))


def _first_slopes(bounds: LinearBounds, y: Labels) -> dict[int, Tensor]:
    """Those of the first bounds, for every rival."""
    n_rivals = bounds.graph.n_classes - 1
    return {
        place: bounds.relaxed(place).below.slope[:, None].repeat(1, n_rivals, *(1 for _ in node.shape)).requires_grad_()
        for place, node in enumerate(bounds.graph.nodes)
        if isinstance(node.operation, LeakyReLU)
    }


def _leak(bounds: LinearBounds, place: int) -> float:
    operation = bounds.graph.nodes[place].operation
    assert isinstance(operation, LeakyReLU)
    return operation.slope
