"""Threat models of every kind as they are written."""

import math
import re

from casemate.errors import CasemateError
from casemate.threat.l0 import L0
from casemate.threat.norms import L1, L2, NORMS, Linf
from casemate.threat.patch import Patch

FORMS = {
    "l0": (re.compile(r"(\d+)"), L0, "l0:PIXELS such as l0:4"),
    "patch": (re.compile(r"(\d+)x(\d+)"), Patch, "patch:ROWSxCOLUMNS such as patch:5x5"),
}


def parse(text: str) -> Linf | L2 | L1:
    """The threat model written as `norm:eps`, where eps is a number or a fraction: `linf:8/255`, `l2:0.5`, `l1:12`.

    Raises `CasemateError` that shows the right form.
    """
    norm, colon, eps = text.strip().partition(":")
    known = ", ".join(NORMS)
    if norm in FORMS and colon:
        raise CasemateError(f"{text!r} is for `casemate certify` alone as yet: elsewhere write one of {known}")
    if norm not in NORMS or not colon:
        raise CasemateError(f"unknown threat model {text!r}: write norm:eps such as linf:8/255 or l2:0.5 ({known})")
    numerator, slash, denominator = eps.partition("/")
    try:
        value = float(numerator) / (float(denominator) if slash else 1)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise CasemateError(
            f"{eps!r} in {text!r} is not a budget: write a number or a fraction such as {norm}:8/255 or {norm}:0.5"
        )
    return NORMS[norm](value)


def parse_any(text: str) -> Linf | L2 | L1 | L0 | Patch:
    """`parse`, and `l0:4` and `patch:5x5`, which `casemate certify` takes as well.

    Raises `CasemateError` that shows the right form.
    """
    kind, _, rest = text.strip().partition(":")
    if kind not in FORMS:
        return parse(text)
    form, make, right = FORMS[kind]
    found = form.fullmatch(rest)
    if found is None:
        raise CasemateError(f"{rest!r} in {text!r} is no size: write {right}")
    made: L0 | Patch = make(*map(int, found.groups()))
    return made
