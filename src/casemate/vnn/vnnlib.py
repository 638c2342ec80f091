"""VNNLIB properties: a box of inputs X_i, and a disjunction of conjunctions of linear constraints on outputs Y_j."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from casemate.errors import CasemateError

Form = str | list["Form"]

# Of each case its constraints, the row and the number of row @ outputs + number <= 0.
Cases = tuple[tuple[tuple[Float64[Tensor, "outputs"], float], ...], ...]


@dataclass(frozen=True, eq=False)
class Property:
    """What a counter-example is: inputs from `lower` to `upper`, outputs that satisfy one of the `cases`.

    A case is a conjunction: row [outputs] times the outputs plus offset at most 0, for each (row, offset) in it.
    """

    lower: Float64[Tensor, "inputs"]
    upper: Float64[Tensor, "inputs"]
    cases: Cases


def read_property(path: Path) -> Property:
    """The property of a VNNLIB file; raises `CasemateError` for what is none or is not supported."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CasemateError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise CasemateError(f"{path} is not a VNNLIB file: it is no text") from None
    try:
        return parse(text)
    except CasemateError as error:
        raise CasemateError(f"{path}: {error}") from None


def parse(text: str) -> Property:
    """The property that a VNNLIB text states; raises `CasemateError` as `read_property` does."""
    sizes = {"X": 0, "Y": 0}
    asserted: list[Form] = []
    for form in _forms(text):
        match form:
            case ["declare-const", str(name), "Real"] if re.fullmatch(r"[XY]_\d+", name):
                sizes[name[0]] = max(sizes[name[0]], int(name[2:]) + 1)
            case ["assert", claim]:
                asserted.append(claim)
            case _:
                raise CasemateError(f"{_shown(form)} is not supported: declare X_i and Y_j as Real, and assert")
    lower = torch.full((sizes["X"],), -torch.inf, dtype=torch.float64)
    upper = -lower
    # Every assertion holds at once: the product of its alternatives with those before it.
    cases: list[tuple[tuple[Tensor, float], ...]] = [()]
    for claim in asserted:
        if _bounds_an_input(claim, lower, upper):
            continue
        found = _alternatives(claim, sizes["Y"])
        cases = [(*case, *other) for case in cases for other in found]
    if not sizes["X"] or not sizes["Y"] or cases == [()]:
        raise CasemateError("a property needs inputs, outputs and an assertion about the outputs")
    if not bool(torch.isfinite(lower).all() and torch.isfinite(upper).all()):
        raise CasemateError("every input needs a lower and an upper bound")
    if bool((lower > upper).any()):
        raise CasemateError("an input has a lower bound above its upper one")
    return Property(lower, upper, tuple(cases))


def _forms(text: str) -> list[Form]:
    stack: list[list[Form]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text)):
        if token == "(":
            stack.append([])
        elif token == ")" and len(stack) > 1:
            closed = stack.pop()
            stack[-1].append(closed)
        elif token == ")":
            raise CasemateError("a parenthesis is closed that was not opened")
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise CasemateError("a parenthesis is not closed")
    return stack[0]


def _bounds_an_input(claim: Form, lower: Tensor, upper: Tensor) -> bool:
    match claim:
        case ["<=" | ">=" as relation, str(left), str(right)]:
            if right.startswith("X_"):
                left, right, relation = right, left, "<=" if relation == ">=" else ">="
            if not left.startswith("X_"):
                return False
            at, value = _index(left, "X", len(lower)), _number(right)
            if relation == "<=":
                upper[at] = min(float(upper[at]), value)
            else:
                lower[at] = max(float(lower[at]), value)
            return True
    return False


def _alternatives(claim: Form, n: int) -> list[tuple[tuple[Tensor, float], ...]]:
    match claim:
        case ["or", *parts]:
            return [case for part in parts for case in _alternatives(part, n)]
        case ["and", *parts]:
            cases: list[tuple[tuple[Tensor, float], ...]] = [()]
            for part in parts:
                found = _alternatives(part, n)
                cases = [(*case, *other) for case in cases for other in found]
            return cases
        case ["<=" | ">=" as relation, str(left), str(right)]:
            sign = 1.0 if relation == "<=" else -1.0
            row, offset = torch.zeros(n, dtype=torch.float64), 0.0
            for term, factor in ((left, sign), (right, -sign)):
                if term.startswith("Y_"):
                    row[_index(term, "Y", n)] += factor
                else:
                    offset += factor * _number(term)
            return [((row, offset),)]
    raise CasemateError(f"{_shown(claim)} is not supported: use and, or, <= and >= between Y_j and numbers")


def _index(name: str, kind: str, n: int) -> int:
    if not re.fullmatch(kind + r"_\d+", name) or int(name[2:]) >= n:
        raise CasemateError(f"{name} is not declared")
    return int(name[2:])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CasemateError(f"{text} is not supported: a number is needed there") from None


def _shown(form: Form) -> str:
    text = form if isinstance(form, str) else "(" + " ".join(_shown(part) for part in form) + ")"
    return text if len(text) <= 60 else text[:57] + "..."
