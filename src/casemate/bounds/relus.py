"""What a ReLU makes of a zonotope: plain functions, each in the place of any other (Mirman et al. 2018, section 4).

An entry whose sign is open, lower < 0 < upper, becomes `scale` times its correlated errors, around `centre` with an
uncorrelated error of `box`. What each function returns is for such entries alone; all work entry by entry.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from casemate.errors import CasemateError

Entries = Float[Tensor, "batch *shape"]


@dataclass(frozen=True, eq=False)
class Rectified:
    """The error of the result: `scale` of the correlated part is kept, and `box` is what is new or not correlated."""

    centre: Entries
    box: Entries
    scale: Entries


# Called with the centre, the uncorrelated error and the two bounds of each entry.
Transformer = Callable[[Entries, Entries, Entries, Entries], Rectified]


def boxed(centre: Entries, box: Entries, lower: Entries, upper: Entries) -> Rectified:
    """From 0 to the upper bound, and nothing correlated (hBox and zBox)."""
    return Rectified(upper / 2, upper / 2, torch.zeros_like(upper))


def diagonal(centre: Entries, box: Entries, lower: Entries, upper: Entries) -> Rectified:
    """Between x and x - lower: everything stays correlated (hDiag and zDiag)."""
    return Rectified(centre - lower / 2, box - lower / 2, torch.ones_like(upper))


def switched(centre: Entries, box: Entries, lower: Entries, upper: Entries) -> Rectified:
    """Boxed where more of the interval is below 0 than above, else diagonal (hSwitch and zSwitch)."""
    return _mixed((-lower > upper).to(upper), centre, box, lower, upper)


def smoothed(centre: Entries, box: Entries, lower: Entries, upper: Entries) -> Rectified:
    """The mean of the two, weighted by how much of the interval is below 0 (hSmooth and zSmooth)."""
    return _mixed(-lower / (upper - lower), centre, box, lower, upper)


def least_area(centre: Entries, box: Entries, lower: Entries, upper: Entries) -> Rectified:
    """The parallelogram of the least area, of slope upper / (upper - lower) (DeepZ, Singh et al. 2018)."""
    scale = upper / (upper - lower)
    half = -scale * lower / 2
    return Rectified(scale * centre + half, scale * box + half, scale)


TRANSFORMERS: dict[str, Transformer] = {
    "box": boxed,
    "diagonal": diagonal,
    "switch": switched,
    "smooth": smoothed,
    "least-area": least_area,
}


def transformer(name: str) -> Transformer:
    """The function called `name`; raises `CasemateError` listing the known ones."""
    if name not in TRANSFORMERS:
        raise CasemateError(f"there is no ReLU {name!r}: choose one of {', '.join(TRANSFORMERS)}")
    return TRANSFORMERS[name]


def _mixed(share: Entries, *arguments: Entries) -> Rectified:
    one, other = boxed(*arguments), diagonal(*arguments)
    return Rectified(
        share * one.centre + (1 - share) * other.centre,
        share * one.box + (1 - share) * other.box,
        share * one.scale + (1 - share) * other.scale,
    )
