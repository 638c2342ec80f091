"""What a threat model allows, as bounds take it: its reach, and the least box around it inside [0, 1]."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from casemate.bounds.interval import Interval, Intervals
from casemate.errors import CasemateError
from casemate.threat import L0, L1, L2, ROUNDING, Images, Linf, Patch, Threat


@dataclass(frozen=True)
class Window:
    """All pixels of one rectangle of an image take any values: what a patch allows in one place."""

    row: int
    column: int
    height: int
    width: int


Reach = Linf | L2 | L1 | L0 | Window


def reaches_of(threat: Threat, x: Images) -> Sequence[Reach]:
    """Sets that together hold all that the `contains` of the threat model lets through, roundings and all.

    A patch is one for each place it may take, and everything else is one. Raises `CasemateError` for a threat model
    that is none of linf, l2, l1, l0 and a patch.
    """
    match threat:
        case L0():
            return [threat]
        case Patch():
            corners = threat.corners(x.shape[2], x.shape[3])
            return [Window(row, column, threat.height, threat.width) for row, column in corners]
        case _:
            return [reach_of(threat, x)]


def reach_of(threat: Threat, x: Images) -> Linf | L2 | L1:
    """A ball with all that its `contains` lets through: eps and the roundings that it forgives.

    Raises `CasemateError` for a threat model that is none of the three norms.
    """
    if not isinstance(threat, (Linf, L2, L1)):
        raise CasemateError(
            f"nothing is known to contain what {threat} allows: certify under linf, l2, l1, l0 or patch"
        )
    n = x.shape[1:].numel()
    slack = {Linf: 1.0, L2: math.sqrt(n), L1: float(n)}[type(threat)] * ROUNDING
    return replace(threat, eps=threat.eps + slack)


def box_of(reach: Reach, x: Images, domain: Intervals) -> Interval:
    """Every value from x - eps to x + eps, clipped; in all three norms no value changes by more than eps.

    Pixels that may take any value go from 0 to 1: those of the window, and of l0 all, for each may be among the few.
    """
    match reach:
        case L0():
            return domain.between(torch.zeros_like(x), torch.ones_like(x))
        case Window():
            rows, columns = slice(reach.row, reach.row + reach.height), slice(reach.column, reach.column + reach.width)
            lower, upper = x.clone(), x.clone()
            lower[:, :, rows, columns], upper[:, :, rows, columns] = 0, 1
            return domain.between(lower, upper)
        case _:
            return domain.between((x - reach.eps).clamp(min=0), (x + reach.eps).clamp(max=1))
