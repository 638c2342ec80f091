"""One call in a classifier, as the rules see it, and what they ask of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from casemate.bounds.operations import Function, Operation
from casemate.errors import CasemateError


@dataclass(frozen=True)
class Variable:
    """Stands for a result that depends on the image, of this shape on the two images of the tracing."""

    shape: tuple[int, ...]

    @property
    def one(self) -> tuple[int, ...]:
        """The shape for one image."""
        return self.shape[1:]


@dataclass(frozen=True, eq=False)
class Layer:
    """One call in the classifier: `target` is a module, a function or the name of a method.

    Arguments that depend on the image are `Variable`s. `result` is what it returned for two images. `statistics` are
    the mean and variance that a batch normalisation takes, where not its running ones.
    """

    name: str
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Tensor
    statistics: tuple[Tensor, Tensor] | None = None

    def refused(self, why: str) -> CasemateError:
        return CasemateError(f"the layer {self.name} ({self.kind}) {why}")

    @property
    def kind(self) -> str:
        if isinstance(self.target, nn.Module):
            return type(self.target).__name__
        return self.target if isinstance(self.target, str) else getattr(self.target, "__name__", str(self.target))

    @property
    def out(self) -> tuple[int, ...]:
        return tuple(self.result.shape[1:])


# From a call to the operation that computes it; raises `CasemateError` naming the layer where there is none.
Rule = Callable[[Layer], Operation]


def variable(layer: Layer) -> Variable:
    """The one argument that depends on the image, which is the first."""
    first, rest = layer.args[:1], (*layer.args[1:], *layer.kwargs.values())
    if not first or not isinstance(first[0], Variable) or any(isinstance(value, Variable) for value in rest):
        raise layer.refused("is known only with a first argument, and no other one, that depends on the image")
    return first[0]


def called(layer: Layer) -> Function:
    """The layer as a function of its one variable."""
    variable(layer)
    rest, kwargs = layer.args[1:], dict(layer.kwargs)
    if isinstance(layer.target, nn.Module):
        return layer.target
    if isinstance(layer.target, str):
        return partial(_method_of, layer.target, rest, kwargs)
    return partial(_first_then, layer.target, rest, kwargs)


def arguments(layer: Layer, *names: str) -> tuple[Any, ...]:
    """The values of the arguments called `names`, None where one was not given; the first is the image's."""
    given = dict(zip(names, layer.args, strict=False)) | dict(layer.kwargs)
    return tuple(given.get(name) for name in names)


def settings(layer: Layer, *names: str) -> dict[str, Any]:
    """What a module is set to, or what a function was given behind its image, by `names` in their order, where set."""
    if isinstance(layer.target, nn.Module):
        found = tuple(getattr(layer.target, name, None) for name in names)
    else:
        found = arguments(layer, "input", *names)[1:]
    return {name: value for name, value in zip(names, found, strict=True) if value is not None}


def pair(value: Any) -> tuple[int, int]:
    """A setting of two axes, of which one number stands for both."""
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _method_of(method: str, rest: tuple[Any, ...], kwargs: Mapping[str, Any], x: Tensor) -> Tensor:
    return getattr(x, method)(*rest, **kwargs)


def _first_then(function: Callable[..., Tensor], rest: tuple[Any, ...], kwargs: Mapping[str, Any], x: Tensor) -> Tensor:
    return function(x, *rest, **kwargs)
