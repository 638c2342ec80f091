"""What only puts the entries of each image in another place: shapes, orders, parts, paddings and joints.

A layer that would mix the images of a batch is refused.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from casemate.bounds.lowering.layer import Layer, Variable, arguments, called, variable
from casemate.bounds.operations import Concatenate, Operation, Positive


def reshaped(layer: Layer) -> Operation:
    """Another shape of each image."""
    shape, image = layer.out, variable(layer)
    if math.prod(shape) != math.prod(image.one):
        raise layer.refused("joins the images of a batch")
    return Positive(lambda x: x.reshape(len(x), *shape), image.one, 0)


def permuted(layer: Layer) -> Operation:
    """Another order of the axes, where the images stay in front."""
    axes = layer.args[1:] or (layer.kwargs["dims"],)
    order = axes[0] if isinstance(axes[0], (list, tuple)) else axes
    if int(order[0]) % (len(layer.out) + 1) != 0:
        raise layer.refused("moves the axis of the batch")
    return Positive(called(layer), variable(layer).one, 0)


def transposed(layer: Layer) -> Operation:
    """Two axes in each other's place."""
    _, *axes = arguments(layer, "input", "dim0", "dim1")
    if any(int(axis) % (len(layer.out) + 1) == 0 for axis in axes):
        raise layer.refused("moves the axis of the batch")
    return Positive(called(layer), variable(layer).one, 0)


def chosen(layer: Layer) -> Operation:
    """A part of each image, x[:, ...]."""
    index = layer.args[1]
    first = index[0] if isinstance(index, tuple) else index
    if first != slice(None):
        raise layer.refused("chooses among the images of a batch")
    return Positive(lambda x: x[index], variable(layer).one, 0)


def unchanged(layer: Layer) -> Operation:
    """What has no effect in eval mode."""
    return Positive(lambda x: x, variable(layer).one, 0)


def dropped(layer: Layer) -> Operation:
    """The function of dropout, which has a mode of its own."""
    _, _, training = arguments(layer, "input", "p", "training")
    if training is not False:
        raise layer.refused("drops entries at random")
    return unchanged(layer)


def padded(layer: Layer) -> Operation:
    """The function of padding, in any of its modes."""
    _, sides, mode, value = arguments(layer, "input", "pad", "mode", "value")
    return _pad(layer, tuple(sides), mode or "constant", float(value or 0))


def padding_module(layer: Layer) -> Operation:
    """Padding with a constant."""
    return _pad(layer, tuple(layer.target.padding), "constant", float(getattr(layer.target, "value", 0)))


def concatenated(layer: Layer) -> Operation:
    """Results and constants along one axis."""
    return _together(layer, stacked=False)


def stacked(layer: Layer) -> Operation:
    """Results and constants along a new axis."""
    return _together(layer, stacked=True)


def _pad(layer: Layer, sides: tuple[int, ...], mode: str, value: float) -> Operation:
    image = variable(layer)
    if len(sides) > 2 * len(image.one):
        raise layer.refused("pads the axis of the batch")
    constant = None
    if value:
        constant = F.pad(torch.zeros(1, *image.one), sides, value=value)[0].to(layer.result)
    return Positive(lambda x: F.pad(x, sides, mode=mode), image.one, 0, constant)


def _together(layer: Layer, *, stacked: bool) -> Operation:
    parts, dim = arguments(layer, "tensors", "dim")
    axis = (dim or 0) % layer.result.ndim
    if axis == 0:
        raise layer.refused("joins batches")
    constants = tuple(None if isinstance(part, Variable) else _row(layer, part) for part in parts)
    return Concatenate(axis, constants, stacked)


def _row(layer: Layer, constant: Tensor) -> Tensor:
    if not torch.equal(constant[0], constant[-1]):
        raise layer.refused("treats the images of a batch differently")
    return constant[0].to(layer.result)
