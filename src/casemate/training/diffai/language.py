"""DiffAI's language: `LinMix(a=Point(), b=Box(w=Lin(0, eps, 20, 2)), bw=Lin(0, 0.5, 20, 2))` as a goal.

Read as an expression of calls, names and numbers and built here; nothing of it is run as Python.
"""

import ast
import inspect
from collections.abc import Callable
from typing import Any

from casemate.errors import CasemateError
from casemate.training.diffai import goals, schedules
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
            goals.LinMix,
            goals.Mix,
            goals.Coin,
        )
    },
    **goals.ZONOTOPES,
}
# What each argument is, by its name: a number that stays, one that may change over time, or a goal.
FIXED = frozenset({"k", "r", "start", "end", "length", "wait", "epoch"})
INNER = frozenset({"a", "b"})


def read_goal(text: str, eps: float) -> Goal:
    """The goal that `text` describes, in which `eps` stands for that number.

    Raises `CasemateError` saying what is wrong with it.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _refused(text, "it is no expression such as LinMix(a=Point(), b=Box(w=eps), bw=0.5)") from None
    return _goal(tree.body, eps)


def _goal(node: ast.expr, eps: float) -> Any:
    name = _called(node)
    if name == "Until":
        assert isinstance(node, ast.Call)
        bound = _bound(node, "Until", goals.Until)
        return goals.Until(_number(bound["epoch"], eps), _goal(bound["a"], eps), _goal(bound["b"], eps))
    if name not in GOALS:
        raise _refused(ast.unparse(node), f"a goal is one of {', '.join([*GOALS, 'Until'])}")
    if isinstance(node, ast.Name):
        node = ast.Call(node, [], [])
    assert isinstance(node, ast.Call)
    bound = _bound(node, name, GOALS[name])
    goal = GOALS[name](**{argument: _value(argument, value, eps) for argument, value in bound.items()})
    for argument in ("k", "r"):
        number = getattr(goal, argument, None)
        if number is not None and (number <= 0 or (argument == "k" and number != int(number))):
            kind = "a whole number from 1" if argument == "k" else "above 0"
            raise _refused(ast.unparse(node), f"{argument} must be {kind}")
    if isinstance(goal, goals.AdvInclusion | goals.AdvDom | goals.BiAdv) and not hasattr(goal.a, "points"):
        raise _refused(ast.unparse(node), "a must look for a point, as IFGSM and PGD do")
    return goal


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
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.Name(id="eps"):
            return eps
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand, eps)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _number(left, eps) * _number(right, eps)
        case ast.BinOp(left=left, op=ast.Div(), right=right) if _number(right, eps) != 0:
            return _number(left, eps) / _number(right, eps)
    raise _refused(ast.unparse(node), "a number is expected, such as 0.1, 8/255, eps or 1.1*eps")


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
