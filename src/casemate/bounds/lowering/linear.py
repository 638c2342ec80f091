"""Linear layers, convolutions and batch normalisation."""

from typing import Any

from torch import Tensor, nn

from casemate.bounds.lowering.layer import Layer, arguments, pair, variable
from casemate.bounds.operations import Conv2d, Linear, Operation, Scale


def linear_module(layer: Layer) -> Operation:
    return Linear(layer.target.weight, layer.target.bias)


def linear(layer: Layer) -> Operation:
    variable(layer)
    _, weight, bias = arguments(layer, "input", "weight", "bias")
    return Linear(weight, bias)


def conv2d_module(layer: Layer) -> Operation:
    module: nn.Conv2d = layer.target
    if module.padding_mode != "zeros":
        raise layer.refused("pads in a way that bounds are not known for: pad before it")
    return _conv2d(layer, module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups)


def conv2d(layer: Layer) -> Operation:
    _, *settings = arguments(layer, "input", "weight", "bias", "stride", "padding", "dilation", "groups")
    weight, bias, stride, padding, dilation, groups = settings
    return _conv2d(layer, weight, bias, stride or 1, 0 if padding is None else padding, dilation or 1, groups or 1)


def batch_norm(layer: Layer) -> Operation:
    """(x - mean) / sqrt(variance + eps) weight + bias as one factor and shift for each channel."""
    module: nn.BatchNorm2d = layer.target
    mean, variance = layer.statistics or (module.running_mean, module.running_var)
    if mean is None or variance is None:
        raise layer.refused("normalises by the batch, which mixes its images: keep running statistics")
    factor = (variance + module.eps).rsqrt()
    if module.affine:
        factor = factor * module.weight
    shift, size = -mean * factor, (mean * factor).abs()
    if module.affine:
        shift, size = shift + module.bias, size + module.bias.abs()
    view = (-1, *(1 for _ in layer.out[1:]))
    # What the classifier loses in the factor is among the roundings that `Scale` counts.
    return Scale(factor.view(view), shift.view(view), size.view(view))


def _conv2d(
    layer: Layer, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Operation:
    if padding == "same":
        raise layer.refused("pads in a way that bounds are not known for: pad before it")
    sides = (0, 0) if padding == "valid" else pair(padding)
    return Conv2d(weight, bias, pair(stride), sides, pair(dilation), groups, variable(layer).one)
