"""Sums, differences, products and quotients: with constants affine, of two results operations of their own."""

from typing import Any

import torch
from torch import Tensor

from casemate.bounds.lowering.layer import Layer, Rule, Variable
from casemate.bounds.operations import Add, Multiply, Operation, Scale


def sum_of(sign: int) -> Rule:
    """left + sign right."""

    def rule(layer: Layer) -> Operation:
        if layer.kwargs.get("alpha", 1) != 1:
            raise layer.refused("has an alpha: multiply before it")
        left, right = layer.args[:2]
        if isinstance(left, Variable) and isinstance(right, Variable):
            if left.shape != right.shape:
                raise layer.refused("adds results of two shapes")
            return Add(sign)
        if isinstance(left, Variable):
            shift = _constant(layer, right, left)
            return Scale(torch.ones_like(shift), sign * shift, terms=1)
        shift = _constant(layer, left, right)
        return Scale(torch.full_like(shift, sign), shift, terms=1)

    return rule


def product(layer: Layer) -> Operation:
    left, right = layer.args[:2]
    if isinstance(left, Variable) and isinstance(right, Variable):
        if left.shape != right.shape:
            raise layer.refused("multiplies results of two shapes")
        return Multiply()
    if isinstance(left, Variable):
        return Scale(_constant(layer, right, left), None, terms=1)
    return Scale(_constant(layer, left, right), None, terms=1)


def quotient(layer: Layer) -> Operation:
    left, right = layer.args[:2]
    if isinstance(right, Variable):
        raise layer.refused("divides by what depends on the image")
    return Scale(1 / _constant(layer, right, left), None, terms=2)


def negative(layer: Layer) -> Operation:
    return Scale(-torch.ones((), dtype=layer.result.dtype, device=layer.result.device), None, terms=0)


def _constant(layer: Layer, value: Any, variable: Variable) -> Tensor:
    """A constant in the form that broadcasts to one image; raises where it differs among the images of a batch."""
    tensor = value if isinstance(value, Tensor) else torch.tensor(value)
    tensor = tensor.to(layer.result)
    if tuple(torch.broadcast_shapes(tensor.shape, variable.shape)) != variable.shape:
        raise layer.refused("gives its image another shape")
    if tensor.ndim < len(variable.shape):
        return tensor
    if len(tensor) == 2 and not torch.equal(tensor[0], tensor[1]):
        raise layer.refused("treats the images of a batch differently")
    return tensor[0]
