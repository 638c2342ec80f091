"""The answers to the two questions about the dimension of the input: every number and turn of phrase from the facts."""

import math
from collections.abc import Mapping
from typing import Any

from casemate.papers.evaluation import CHANCE
from casemate.papers.madry2018.dimension_facts import KINDS, Facts, doubling, exponent
from casemate.papers.madry2018.numbers import percent, ratio, written
from casemate.papers.madry2018.pair import NATURAL, TRAINED

# A factor per doubling between these is none.
STILL = (0.95, 1.05)


def on_pixels(found: Facts) -> str:
    """Do few pixels make adversarial examples harder to find?"""
    factors, parts = {}, []
    for network in KINDS:
        linf = [found.size(network, side)["linf"] for side in found.sides]
        factor = factors[network] = doubling(linf[0], linf[2], 2)
        each = "" if math.isnan(factor) else f", times {factor:.2f} at each doubling"
        parts.append(f"of the {network} networks {_word(factor)} ({written(linf)}{each})")
    before = exponent(found.sides, [found.untrained_at(side) for side in found.sides])
    after = [exponent(found.sides, [found.size(kind, side)["gradient"] for side in found.sides]) for kind in KINDS]
    low, own, high = found.sides
    native, pooled = found.size(TRAINED, high)["standing"], found.through(TRAINED, "area, factor 2")["standing"]
    cost = "Larger images need not cost as much" if native < pooled - CHANCE else "Larger images cost nothing here"
    small = found.size(NATURAL, low)
    alone = "are no protection by themselves" if small["standing"] < small["clean"] / 2 else "may protect"
    return (
        f"At {found.at} a side and as many weights, the median smallest linf change {' and '.join(parts)}; sqrt(n) "
        "would halve it, up-sampling alone leave it. The l1 norm of the gradient grows with an exponent in n of "
        f"{ratio(before)} before training and of {ratio(after[0])} and {ratio(after[1])} after it (theory: 0.5). "
        f"{cost}: at {high} pixels and {found.threat} the {TRAINED} network of {own} behind an average pool leaves "
        f"{percent(pooled)} standing, the one trained there {percent(native)}. {_verdict(factors)}. Few pixels "
        f"{alone}: of the {NATURAL} network at {low} pixels {percent(small['standing'])} stand at {found.threat}."
    )


def on_resizes(found: Facts) -> str:
    """Can an attack exploit the resize?"""
    area, nearest, bicubic = (found.through(TRAINED, f"{kind}, factor 4") for kind in ("area", "nearest", "bicubic"))
    gain = found.closed_form("bicubic, factor 4")["linf"]
    gains = []
    if None not in (area["l2_ratio"], nearest["l2_ratio"]) and nearest["l2_ratio"] < area["l2_ratio"] / 1.5:
        gains.append("from pixels that the resize ignores, in l2")
    if bicubic["standing"] < area["standing"] - CHANCE:
        gains.append("from weights below 0, in linf")
    return (
        f"At factor 4 in front of the {TRAINED} network of {found.own} pixels "
        f"({percent(found.size(TRAINED, found.own)['standing'])} standing at {found.threat} without it): behind area "
        f"pooling {percent(area['standing'])} stand and {_cost(area)}; behind "
        f"nearest {percent(nearest['standing'])} and {_cost(nearest)}, on {percent(nearest['share'] or 0)} "
        f"of the pixels; behind bicubic without antialiasing, which lets linf changes grow up to {gain:.2f} times, "
        f"{percent(bicubic['standing'])} and {_cost(bicubic)}. So an attack gains "
        f"{' and '.join(gains) or 'nothing that shows here'}; eps is that of the image which is handed in, and what "
        "was measured behind a resize has to be measured again in front of it."
    )


def _cost(behind: Mapping[str, Any]) -> str:
    return (
        "no l2 change was found"
        if behind["l2_ratio"] is None
        else f"l2 changes are {behind['l2_ratio']:.2f} times as long"
    )


def _word(factor: float) -> str:
    if math.isnan(factor):
        return "cannot be compared"
    return "falls" if factor < STILL[0] else "rises" if factor > STILL[1] else "stays"


def _verdict(factors: dict[str, float]) -> str:
    harder = [network for network, factor in factors.items() if factor < STILL[0]]
    if any(math.isnan(factor) for factor in factors.values()):
        return "Whether fewer pixels made adversarial examples harder to find cannot be told by these networks"
    if not harder:
        return "So fewer pixels did not make adversarial examples harder to find, pixel for pixel"
    which = f" for the {harder[0]} networks alone" if len(harder) == 1 else ""
    return f"So, pixel for pixel, fewer pixels did make adversarial examples harder to find{which}"
