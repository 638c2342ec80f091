"""The least box that holds what a threat model allows, inside [0, 1]."""

import torch

from casemate.bounds.interval import Interval, Intervals
from casemate.errors import CasemateError
from casemate.threat import L1, L2, Images, Linf, Threat


def box_of(threat: Threat, x: Images, domain: Intervals, *, dtype: torch.dtype | None = None) -> Interval:
    """Every entry from x - eps to x + eps, clipped; in all three norms no entry changes by more than eps.

    Raises `CasemateError` for a threat model without such a box.
    """
    if not isinstance(threat, (Linf, L2, L1)):
        raise CasemateError(f"nothing is known to contain what {threat} allows: certify under linf, l2 or l1")
    exact = x.to(x.dtype if dtype is None else dtype)
    return domain.between((exact - threat.eps).clamp(min=0), (exact + threat.eps).clamp(max=1))
