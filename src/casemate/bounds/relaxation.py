"""Lines above and below an activation between two bounds of its input.

Any line that is on its side of the function at both ends of the interval and at the kink is sound; the choices differ
in how tight they are. All functions work entry by entry.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from casemate.errors import CasemateError

Entries = Float[Tensor, "..."]

# The slope of the lower line where the sign of the input is open: "adaptive" is 1 or 0, whichever leaves the smaller
# area (CROWN-Ada, DeepPoly), "same" is that of the upper line (Fast-Lin, Wong & Kolter 2018), "zero" and "one" are it.
Slope = Literal["adaptive", "same", "zero", "one"]


@dataclass(frozen=True, eq=False)
class Line:
    """x to slope x + shift."""

    slope: Entries
    shift: Entries


@dataclass(frozen=True, eq=False)
class Lines:
    """Of one activation, and where its input can have either sign (`open`)."""

    below: Line
    above: Line
    open: Tensor


def lines(lower: Entries, upper: Entries, leak: float, slope: Slope) -> Lines:
    """For max(x, leak x) with lower <= x <= upper; a ReLU has no leak."""
    open_ = (lower < 0) & (upper > 0)
    active = (lower >= 0).to(lower)
    # Where the sign is known the function is a line itself.
    fixed = active + (1 - active) * leak
    width = torch.where(open_, upper - lower, 1)
    chord = torch.where(open_, (upper - leak * lower) / width, fixed)
    # The chord is highest over the function at the ends: whichever its rounded slope leaves lower is lifted to it.
    lift = torch.maximum(upper - chord * upper, leak * lower - chord * lower)
    shift = torch.where(open_, lift, 0)
    if slope == "adaptive":
        chosen = torch.where(upper > -lower, 1.0, leak).to(lower)
    elif slope == "same":
        # Rounded, it may be a hair outside of what is sound.
        chosen = chord.clamp(leak, 1)
    else:
        chosen = torch.full_like(lower, 1.0 if slope == "one" else leak)
    below = torch.where(open_, chosen, fixed)
    return Lines(Line(below, torch.zeros_like(below)), Line(chord, shift), open_)


def check_slope(name: str) -> Slope:
    """`name` as a way to choose; raises `CasemateError` listing the known ones."""
    for known in get_args(Slope):
        if name == known:
            return known
    raise CasemateError(f"there is no slope {name!r}: choose one of {', '.join(get_args(Slope))}")
