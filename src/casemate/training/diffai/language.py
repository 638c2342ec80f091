"""DiffAI's language: `LinMix(a=Point(), b=Box(w=Lin(0, eps, 20, 2)), bw=Lin(0, 0.5, 20, 2))` as a goal.

Read as an expression of calls, names and numbers and built here; nothing of it is run as Python.
"""

import ast
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from casemate.errors import CasemateError
from casemate.training.diffai import goals, mixtures, schedules
from casemate.training.diffai.goals import Goal
from casemate.training.diffai.schedules import Constant

GOALS: dict[str, Callable[..., Any]] = {
    **{
        kind.__name__: kind
        for kind in (
            goals.Point,
            goals.NormalPoint,
            goals.IFGSM,
            goals.PGD,
            goals.Box,
            goals.InSamp,
            goals.AdvInclusion,
            goals.AdvDom,
            goals.BiAdv,
            mixtures.LinMix,
            mixtures.Mix,
            mixtures.Coin,
            mixtures.Until,
        )
    },
    "MI_FGSM": goals.MIFGSM,
    **goals.ZONOTOPES,
}
# These take any number of pairs of a weight and a goal.
OF_SEVERAL: dict[str, Callable[[mixtures.Parts], Goal]] = {"DList": mixtures.DList, "DProb": mixtures.DProb}
# What each argument is, by its name: a number that stays, one that may change over time, or a goal.
FIXED = frozenset({"k", "r", "mu", "start", "end", "length", "wait", "epoch"})
INNER = frozenset({"a", "b"})


def read_goal(text: str, eps: float) -> Goal:
    """The goal that `text` describes, in which `eps` stands for that number.

    Raises `CasemateError` saying what is wrong with it.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _refused(text, "it is no expression such as LinMix(a=Point(), b=Box(w=eps), bw=0.5)") from None
    try:
        return _goal(tree.body, eps)
    except RecursionError:
        raise _refused(text, "it is nested too deeply") from None


def _goal(node: ast.expr, eps: float) -> Any:
    name = _called(node)
    if name not in GOALS and name not in OF_SEVERAL:
        raise _refused(ast.unparse(node), f"a goal is one of {', '.join([*GOALS, *OF_SEVERAL])}")
    if isinstance(node, ast.Name):
        node = ast.Call(node, [], [])
    assert isinstance(node, ast.Call)
    if name in OF_SEVERAL:
        parts = _parts(node, eps)
        _some_weight(node, [weight for weight, _ in parts])
        return OF_SEVERAL[name](parts)
    bound = _bound(node, name, GOALS[name])
    goal = GOALS[name](**{argument: _value(argument, value, eps) for argument, value in bound.items()})
    if isinstance(goal, mixtures.Mix):
        _some_weight(node, (goal.aw, goal.bw))
    for argument in ("k", "r"):
        number = getattr(goal, argument, None)
        if number is not None and (number <= 0 or (argument == "k" and number != int(number))):
            kind = "a whole number from 1" if argument == "k" else "above 0"
            raise _refused(ast.unparse(node), f"{argument} must be {kind}")
    if isinstance(goal, goals.MIFGSM) and goal.mu < 0:
        raise _refused(ast.unparse(node), "mu must not be below 0")
    if isinstance(goal, goals.AdvInclusion | goals.AdvDom | goals.BiAdv) and not hasattr(goal.a, "points"):
        raise _refused(ast.unparse(node), "a must look for a point, as IFGSM and PGD do")
    return goal


def _parts(node: ast.Call, eps: float) -> mixtures.Parts:
    parts = []
    for argument in node.args:
        match argument:
            case ast.Tuple(elts=[weight, goal]):
                parts.append((_schedule(weight, eps), _goal(goal, eps)))
            case _:
                raise _refused(ast.unparse(argument), "a weight and a goal are expected, such as (0.5, Point())")
    if node.keywords or not parts:
        raise _refused(ast.unparse(node), "it takes pairs of a weight and a goal, such as (0.5, Point()), and no names")
    return tuple(parts)


def _some_weight(node: ast.expr, weights: Sequence[schedules.Schedule]) -> None:
    if all(isinstance(weight, Constant) and weight.value <= 0 for weight in weights):
        raise _refused(ast.unparse(node), "one of the weights must be above 0")


def _value(argument: str, node: ast.expr, eps: float) -> Any:
    if argument in INNER:
        return _goal(node, eps)
    return _number(node, eps) if argument in FIXED else _schedule(node, eps)


def _schedule(node: ast.expr, eps: float) -> schedules.Schedule:
    if not isinstance(node, ast.Call):
        return Constant(_number(node, eps))
    match _called(node):
        case "Lin":
            bound = _bound(node, "Lin", schedules.Lin)
            return schedules.Lin(**{argument: _number(value, eps) for argument, value in bound.items()})
        case "Until":
            bound = _bound(node, "Until", schedules.Until)
            first, then = (_schedule(bound[part], eps) for part in ("first", "then"))
            return schedules.Until(_number(bound["epoch"], eps), first, then)
    raise _refused(ast.unparse(node), "a number is one such as 0.1 or eps, Lin(start, end, length, wait) or Until")


def _number(node: ast.expr, eps: float) -> float:
    try:
        value = _computed(node, eps)
    except (OverflowError, ZeroDivisionError):
        value = math.nan
    if value is None:
        raise _refused(ast.unparse(node), "a number is expected, such as 0.1, 8/255, eps or 1.1*eps")
    if not math.isfinite(value):
        raise _refused(ast.unparse(node), "it is no finite number")
    return value


def _computed(node: ast.expr, eps: float) -> float | None:
    """The value of an expression of numbers; None where it is something else."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.Name(id="eps"):
            return eps
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            negated = _computed(operand, eps)
            return None if negated is None else -negated
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div() as operation, right=right):
            first, second = _computed(left, eps), _computed(right, eps)
            if first is None or second is None:
                return None
            return first * second if isinstance(operation, ast.Mult) else first / second
    return None


def _called(node: ast.expr) -> str:
    match node:
        case ast.Call(func=ast.Name(id=name)) | ast.Name(id=name):
            return name
    return ""


def _bound(node: ast.Call, name: str, kind: Callable[..., Any]) -> dict[str, ast.expr]:
    """The arguments of a call by their names."""
    keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
    if len(keywords) < len(node.keywords) or any(isinstance(argument, ast.Starred) for argument in node.args):
        raise _refused(ast.unparse(node), "arguments are given one by one")
    signature = inspect.signature(kind)
    try:
        return dict(signature.bind(*node.args, **keywords).arguments)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "nothing"
        raise _refused(ast.unparse(node), f"{error}; {name} takes {known}") from None


def _refused(text: str, why: str) -> CasemateError:
    return CasemateError(f"the goal {text[:80]!r} cannot be read: {why}")
