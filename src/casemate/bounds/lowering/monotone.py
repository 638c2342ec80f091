"""Functions that grow with each of their inputs: activations, clamps and max pooling."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from casemate.bounds.lowering.layer import Layer, Rule, called, pair, settings, variable
from casemate.bounds.operations import LeakyReLU, MaxPool2d, Monotone, Operation

# More than PyTorch's exponentials and tangents take.
ROUNDINGS = 8


def growing(name: str, roundings: int = 0) -> Rule:
    """For a function that grows with each entry, whatever its other arguments."""
    return lambda layer: Monotone(name, called(layer), roundings)


def relu(layer: Layer) -> Operation:
    variable(layer)
    return LeakyReLU("relu", F.relu, slope=0.0)


def leaky_relu(layer: Layer) -> Operation:
    variable(layer)
    slope = settings(layer, "negative_slope").get("negative_slope", 0.01)
    if not 0 <= slope <= 1:
        raise layer.refused(f"has slope {slope}, and bounds are known for slopes from 0 to 1")
    return LeakyReLU("leaky relu", partial(F.leaky_relu, negative_slope=slope), 1, slope=slope)


def softplus(layer: Layer) -> Operation:
    return _growing_if(layer, "softplus", "beta")


def elu(layer: Layer) -> Operation:
    return _growing_if(layer, "elu", "alpha")


def max_pool2d(layer: Layer) -> Operation:
    given = settings(layer, "kernel_size", "stride", "padding", "dilation", "ceil_mode")
    variable(layer)
    pool = partial(F.max_pool2d, **given)
    kernel = pair(given["kernel_size"])
    stride = pair(given.get("stride") or kernel)
    padding, dilation = pair(given.get("padding", 0)), pair(given.get("dilation", 1))
    if given.get("ceil_mode") or any(padding):
        # Their windows hang over the edge, which `unfold` would fill with zeros.
        return Monotone("max pool", pool)

    def windows(x: Tensor) -> Tensor:
        return F.unfold(x, kernel, dilation, 0, stride).unflatten(1, (x.shape[1], -1))

    return MaxPool2d("max pool", pool, windows=windows)


def _growing_if(layer: Layer, name: str, parameter: str) -> Operation:
    """Where `parameter`, the second argument, is positive, as it is by default."""
    value = settings(layer, parameter).get(parameter, 1)
    if value <= 0:
        raise layer.refused(f"falls where its {parameter} is not positive")
    return Monotone(name, called(layer), ROUNDINGS)
