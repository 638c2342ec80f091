"""Means over windows, over axes and between pixels: affine, with weights that are not negative."""

import math

import torch.nn.functional as F

from casemate.bounds.lowering.layer import Layer, arguments, called, pair, settings, variable
from casemate.bounds.operations import Operation, Positive

# Positions between pixels up to this fraction of one are exact in float32 for images of thousands of pixels a side.
FINEST = 2**8


def pooled(layer: Layer) -> Operation:
    """Over windows of one size."""
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    given = settings(layer, *names)
    if given.get("divisor_override", 1) < 0:
        raise layer.refused("has a negative divisor")
    kernel = pair(given["kernel_size"])
    return Positive(called(layer), variable(layer).one, math.prod(kernel) + 1)


def adaptively_pooled(layer: Layer) -> Operation:
    """Over windows as large as the image needs them, which may overlap."""
    image = variable(layer).one
    windows = (math.ceil(size / out) + 1 for size, out in zip(image[-2:], layer.out[-2:], strict=True))
    return Positive(called(layer), image, math.prod(windows) + 1)


def averaged(layer: Layer) -> Operation:
    """The mean or the sum over some axes of each image."""
    image = variable(layer)
    _, dim = arguments(layer, "input", "dim")
    axes = (dim,) if isinstance(dim, int) else dim
    if axes is None or any(axis % len(image.shape) == 0 for axis in axes):
        raise layer.refused("goes over the images of a batch")
    return Positive(called(layer), image.one, math.prod(image.shape[axis] for axis in axes) + 1)


def resized(layer: Layer) -> Operation:
    """Interpolation, where float32 and float64 put the pixels in the same places.

    The weights between two pixels are differences of positions. Where these are rounded, a classifier in float32 has
    other weights than its bounds; so only ratios of sizes that are fractions of a power of two are known.
    """
    names = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")
    given = settings(layer, *names)
    mode = given.get("mode", "nearest")
    if mode not in ("nearest", "bilinear", "area"):
        raise layer.refused("is known for nearest, bilinear and area, whose weights are not negative")
    image = variable(layer).one
    corners = 1 if given.get("align_corners") else 0
    ratios = [(size - corners) / max(out - corners, 1) for size, out in zip(image[-2:], layer.out[-2:], strict=True)]
    factor = given.get("scale_factor")
    if factor is not None:
        ratios += [1 / float(value) for value in (factor if isinstance(factor, (list, tuple)) else (factor,))]
    if mode != "area" and any(ratio * FINEST != round(ratio * FINEST) for ratio in ratios):
        raise layer.refused("resizes by a ratio that is no fraction of a power of two")
    # A window reaches over twice the ratio where it is blurred, and over two pixels else.
    terms = math.prod(2 * math.ceil(max(ratio, 1)) + 2 for ratio in ratios[:2])
    return Positive(lambda x: F.interpolate(x, **given), image, 4 * terms)
