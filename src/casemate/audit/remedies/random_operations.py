"""Random operations of torch, intercepted so that each image of a batch draws from its own key."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from casemate import rng


class NotByImage(Exception):
    """A random operation whose result has not one row for each image, or that is not known here."""


class DrawsByImage(TorchDispatchMode):
    """While open, what torch draws at random for a batch comes from `keys`, row by row, whichever function asks.

    Raises `NotByImage` at a random operation whose first axis is not that of the images, or that is none of the usual
    ones: uniform, normal, exponential and Bernoulli numbers, integers, dropout.
    """

    def __init__(self, keys: rng.Keys) -> None:
        super().__init__()
        self.keys, self.n_operations = keys, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        self.n_operations += 1
        draw = _Draw(rng.fold(self.keys, "operation", self.n_operations))
        name = func._schema.name.removeprefix("aten::")
        if name == "native_dropout":
            return _dropout(draw, *args)
        if name not in _IN_PLACE and name not in _NEW:
            raise NotByImage(name)
        if name in _IN_PLACE:
            target = args[0]
            return target.copy_(_IN_PLACE[name](draw, func, args, kwargs, target))
        # What the operation would have answered gives shape, dtype and device; its own draw is thrown away.
        like = func(*args, **kwargs)
        return _NEW[name](draw, func, args, kwargs, like).to(like)


class _Draw:
    """Numbers of one operation, of the shape of a tensor whose first axis is that of the images."""

    def __init__(self, keys: rng.Keys) -> None:
        self.keys = keys

    def uniform(self, like: Tensor) -> Tensor:
        return rng.uniform(self._keys(like), like.shape[1:])

    def normal(self, like: Tensor) -> Tensor:
        return rng.normal(self._keys(like), like.shape[1:])

    def exponential(self, like: Tensor) -> Tensor:
        return rng.exponential(self._keys(like), like.shape[1:])

    def _keys(self, like: Tensor) -> rng.Keys:
        if like.ndim == 0 or len(like) != len(self.keys):
            raise NotByImage(f"a draw of shape {list(like.shape)}")
        return self.keys.to(like.device)


def _argument(func: Any, args: Sequence[Any], kwargs: dict[str, Any], name: str, default: Any) -> Any:
    """The argument called `name` of an operation, by the order of its schema."""
    if name in kwargs:
        return kwargs[name]
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[place] if place < len(args) else default
    return default


def _normal_in_place(draw: _Draw, func: Any, args: Sequence[Any], kwargs: dict[str, Any], like: Tensor) -> Tensor:
    mean, std = _argument(func, args, kwargs, "mean", 0.0), _argument(func, args, kwargs, "std", 1.0)
    return mean + std * draw.normal(like)


def _uniform_in_place(draw: _Draw, func: Any, args: Sequence[Any], kwargs: dict[str, Any], like: Tensor) -> Tensor:
    low, high = _argument(func, args, kwargs, "from", 0.0), _argument(func, args, kwargs, "to", 1.0)
    return low + (high - low) * draw.uniform(like)


def _exponential_in_place(draw: _Draw, func: Any, args: Sequence[Any], kwargs: dict[str, Any], like: Tensor) -> Tensor:
    return draw.exponential(like) / _argument(func, args, kwargs, "lambd", 1.0)


def _bernoulli_in_place(draw: _Draw, func: Any, args: Sequence[Any], kwargs: dict[str, Any], like: Tensor) -> Tensor:
    return (draw.uniform(like) < _argument(func, args, kwargs, "p", 0.5)).to(like.dtype)


def _bernoulli(draw: _Draw, func: Any, args: Sequence[Any], kwargs: dict[str, Any], like: Tensor) -> Tensor:
    return (draw.uniform(like) < _argument(func, args, kwargs, "p", args[0])).to(like.dtype)


def _rand(draw: _Draw, func: Any, args: Sequence[Any], kwargs: dict[str, Any], like: Tensor) -> Tensor:
    return draw.uniform(like)


def _randn(draw: _Draw, func: Any, args: Sequence[Any], kwargs: dict[str, Any], like: Tensor) -> Tensor:
    return draw.normal(like)


def _randint(draw: _Draw, func: Any, args: Sequence[Any], kwargs: dict[str, Any], like: Tensor) -> Tensor:
    low, high = _argument(func, args, kwargs, "low", 0), _argument(func, args, kwargs, "high", None)
    # Two uniform numbers of 24 bits each, for ranges as wide as those of keys.
    share = draw.uniform(like).double() + _Draw(rng.fold(draw.keys, "low bits")).uniform(like).double() * 2.0**-24
    return (low + (share * (high - low)).floor()).clamp(low, high - 1).to(torch.int64)


def _dropout(draw: _Draw, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    kept = draw.uniform(x) >= p if train is not False else torch.ones_like(x, dtype=torch.bool)
    scale = 0.0 if p == 1 else 1 / (1 - p) if train is not False else 1.0
    return x * kept * scale, kept


_Kind = Callable[[_Draw, Any, Sequence[Any], dict[str, Any], Tensor], Tensor]
_IN_PLACE: dict[str, _Kind] = {
    "normal_": _normal_in_place,
    "uniform_": _uniform_in_place,
    "exponential_": _exponential_in_place,
    "bernoulli_": _bernoulli_in_place,
}
_NEW: dict[str, _Kind] = {
    "rand": _rand,
    "rand_like": _rand,
    "randn": _randn,
    "randn_like": _randn,
    "bernoulli": _bernoulli,
    "randint": _randint,
}
