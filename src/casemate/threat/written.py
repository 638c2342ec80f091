"""Threat models of every kind as they are written."""

import re

from casemate.errors import CasemateError
from casemate.threat.l0 import L0
from casemate.threat.norms import L1, L2, Linf, parse
from casemate.threat.patch import Patch

FORMS = {
    "l0": (re.compile(r"(\d+)"), L0, "l0:PIXELS such as l0:4"),
    "patch": (re.compile(r"(\d+)x(\d+)"), Patch, "patch:ROWSxCOLUMNS such as patch:5x5"),
}


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
