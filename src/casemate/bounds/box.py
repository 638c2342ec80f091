"""What a threat model allows, as bounds take it: its reach, and the least box around it inside [0, 1]."""

import math
from dataclasses import replace

from casemate.bounds.interval import Interval, Intervals
from casemate.errors import CasemateError
from casemate.threat import L1, L2, ROUNDING, Images, Linf, Threat


def reach_of(threat: Threat, x: Images) -> Linf | L2 | L1:
    """The threat model with all that its `contains` lets through: eps and the roundings that it forgives.

    Raises `CasemateError` for one that is none of the three norms.
    """
    if not isinstance(threat, (Linf, L2, L1)):
        raise CasemateError(f"nothing is known to contain what {threat} allows: certify under linf, l2 or l1")
    n = x.shape[1:].numel()
    slack = {Linf: 1.0, L2: math.sqrt(n), L1: float(n)}[type(threat)] * ROUNDING
    return replace(threat, eps=threat.eps + slack)


def box_of(threat: Linf | L2 | L1, x: Images, domain: Intervals) -> Interval:
    """Every value from x - eps to x + eps, clipped; in all three norms no value changes by more than eps."""
    return domain.between((x - threat.eps).clamp(min=0), (x + threat.eps).clamp(max=1))
