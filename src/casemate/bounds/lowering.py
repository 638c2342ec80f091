"""What each layer and each function of PyTorch is among the operations: one entry in a table a layer.

A layer that is not in the tables is refused by name. So is one that mixes the images of a batch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casemate.bounds.operations import (
    Add,
    Concatenate,
    Conv2d,
    Function,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Monotone,
    Multiply,
    Operation,
    Positive,
    Scale,
)
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

    def variables(self) -> list[Variable]:
        """Those among the positional arguments, lists opened."""
        opened = [part for value in self.args for part in (value if isinstance(value, (list, tuple)) else (value,))]
        return [value for value in opened if isinstance(value, Variable)]


Rule = Callable[[Layer], Operation]


def lower(layer: Layer) -> Operation:
    """The operation that computes `layer`; raises `CasemateError` naming a layer that there is none for."""
    if layer.result.ndim < 1 or len(layer.result) != 2:
        raise layer.refused("does not keep one row for each image of a batch")
    if isinstance(layer.target, nn.Module):
        rule = MODULES.get(type(layer.target))
    else:
        name = layer.target if isinstance(layer.target, str) else getattr(layer.target, "__name__", "")
        rule = FUNCTIONS.get(name)
    if rule is None:
        raise layer.refused("is none that bounds are known for")
    return rule(layer)


def _linear_module(layer: Layer) -> Operation:
    return Linear(layer.target.weight, layer.target.bias)


def _convolution(layer: Layer) -> Operation:
    module: nn.Conv2d = layer.target
    (image,) = layer.variables()
    if module.padding_mode != "zeros" or module.padding == "same":
        raise layer.refused("pads in a way that bounds are not known for: pad before it")
    padding = (0, 0) if module.padding == "valid" else _pair(module.padding)
    return _conv2d(
        image, module.weight, module.bias, _pair(module.stride), padding, _pair(module.dilation), module.groups
    )


def _conv2d(
    image: Variable,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Conv2d:
    return Conv2d(weight, bias, _pair(stride), _pair(padding), _pair(dilation), groups, image.one)


def _batch_norm(layer: Layer) -> Operation:
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


def _positive(layer: Layer, function: Function, terms: int) -> Operation:
    (variable,) = layer.variables()
    return Positive(function, variable.one, terms)


def _rearranged(layer: Layer) -> Operation:
    """What only gives the entries of each image another shape."""
    shape = layer.out
    (variable,) = layer.variables()
    if math.prod(shape) != math.prod(variable.one):
        raise layer.refused("joins the images of a batch")
    return _positive(layer, lambda x: x.reshape(len(x), *shape), 0)


def _called(layer: Layer) -> Function:
    """The layer as a function of its one variable, the first argument."""
    rest, kwargs = layer.args[1:], dict(layer.kwargs)
    if isinstance(layer.target, str):
        method = layer.target
        return lambda x: getattr(x, method)(*rest, **kwargs)
    if isinstance(layer.target, nn.Module):
        return layer.target
    return partial(_first_then, layer.target, rest, kwargs)


def _first_then(function: Callable[..., Tensor], rest: tuple[Any, ...], kwargs: Mapping[str, Any], x: Tensor) -> Tensor:
    return function(x, *rest, **kwargs)


def _moved(layer: Layer) -> Operation:
    """Another order of the entries, where the images stay in front."""
    first = layer.args[1] if len(layer.args) > 1 else layer.kwargs.get("dims", layer.kwargs.get("dim0"))
    axes = tuple(first) if isinstance(first, (list, tuple)) else tuple(layer.args[1:])
    n = len(layer.variables()[0].shape)
    axes = tuple(int(axis) % n for axis in axes)
    stays = axes[0] == 0 if layer.kind == "permute" else 0 not in axes
    if not stays:
        raise layer.refused("moves the axis of the batch")
    return _positive(layer, _called(layer), 0)


def _pooled(layer: Layer) -> Operation:
    """An average over windows or over all positions."""
    (image,) = layer.variables()
    before, after = math.prod(image.one[1:]), math.prod(layer.out[1:])
    # No window is larger than the image; small ones overcount by no more than that.
    return _positive(layer, _called(layer), max(1, math.ceil(before / max(after, 1))) * 4 + before // max(after, 1))


def _averaged(layer: Layer) -> Operation:
    """The mean or the sum over some axes of each image."""
    (variable,) = layer.variables()
    axes = layer.kwargs.get("dim", layer.args[1] if len(layer.args) > 1 else None)
    axes = (axes,) if isinstance(axes, int) else axes
    if axes is None or any(axis % len(variable.shape) == 0 for axis in axes):
        raise layer.refused("goes over the images of a batch")
    return _positive(layer, _called(layer), math.prod(variable.one) // max(math.prod(layer.out), 1) + 1)


def _padded(layer: Layer) -> Operation:
    sides = layer.args[1] if len(layer.args) > 1 else layer.kwargs["pad"]
    mode = layer.kwargs.get("mode", layer.args[2] if len(layer.args) > 2 else "constant")
    value = layer.kwargs.get("value", layer.args[3] if len(layer.args) > 3 else None) or 0.0
    return _pad(layer, tuple(sides), mode, float(value))


def _padding_module(layer: Layer) -> Operation:
    return _pad(layer, tuple(layer.target.padding), "constant", float(getattr(layer.target, "value", 0.0)))


def _pad(layer: Layer, sides: tuple[int, ...], mode: str, value: float) -> Operation:
    (image,) = layer.variables()
    if len(sides) > 2 * len(image.one):
        raise layer.refused("pads the axis of the batch")
    constant = None
    if value:
        constant = F.pad(torch.zeros(1, *image.one), sides, value=value)[0].to(layer.result)
    return Positive(lambda x: F.pad(x, sides, mode=mode), image.one, 0, constant)


def _chosen(layer: Layer) -> Operation:
    """A part of each image, x[:, ...]."""
    index = layer.args[1]
    first = index[0] if isinstance(index, tuple) else index
    if first != slice(None):
        raise layer.refused("chooses among the images of a batch")
    return _positive(layer, lambda x: x[index], 0)


def _unchanged(layer: Layer) -> Operation:
    return _positive(layer, lambda x: x, 0)


def _dropped(layer: Layer) -> Operation:
    _, _, training = _arguments(layer, ("input", "p", "training"))
    if training is not False:
        raise layer.refused("drops entries at random")
    return _unchanged(layer)


def _resized(layer: Layer) -> Operation:
    settings = dict(layer.kwargs)
    names = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")
    settings |= dict(zip(names, layer.args[1:], strict=False))
    if settings.get("mode", "nearest") == "bicubic":
        raise layer.refused("has negative weights: bounds are known for nearest, bilinear and area")
    (image,) = layer.variables()
    ratio = math.ceil(math.prod(image.one[1:]) / math.prod(layer.out[1:]))
    return _positive(layer, lambda x: F.interpolate(x, **settings), 8 * max(4, ratio))


def _upsampling(layer: Layer) -> Operation:
    if layer.target.mode == "bicubic":
        raise layer.refused("has negative weights: bounds are known for nearest and bilinear")
    return _positive(layer, layer.target, 8)


def _max_pool(layer: Layer) -> Operation:
    if isinstance(layer.target, nn.Module):
        settings = {
            name: getattr(layer.target, name) for name in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        }
    else:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        settings = dict(zip(names, layer.args[1:], strict=False)) | dict(layer.kwargs)
        settings.pop("return_indices", None)
    kernel = _pair(settings["kernel_size"])
    stride = _pair(settings.get("stride") or kernel)
    padding, dilation = _pair(settings.get("padding", 0)), _pair(settings.get("dilation", 1))
    if settings.get("ceil_mode") or any(padding):
        # Their windows hang over the edge, which `unfold` would fill with zeros.
        return Monotone("max pool", partial(F.max_pool2d, **settings))

    def windows(x: Tensor) -> Tensor:
        return F.unfold(x, kernel, dilation, 0, stride).unflatten(1, (x.shape[1], -1))

    return MaxPool2d("max pool", partial(F.max_pool2d, **settings), windows=windows)


def _leaky(slope: float) -> LeakyReLU:
    return LeakyReLU("leaky relu", partial(F.leaky_relu, negative_slope=slope), 1, slope=slope)


def _relu(layer: Layer) -> Operation:
    return LeakyReLU("relu", F.relu, slope=0.0)


def _leaky_module(layer: Layer) -> Operation:
    return _leaky_checked(layer, layer.target.negative_slope)


def _leaky_function(layer: Layer) -> Operation:
    return _leaky_checked(layer, layer.kwargs.get("negative_slope", layer.args[1] if len(layer.args) > 1 else 0.01))


def _leaky_checked(layer: Layer, slope: float) -> Operation:
    if not 0 <= slope <= 1:
        raise layer.refused(f"has slope {slope}, and bounds are known for slopes from 0 to 1")
    return _leaky(slope)


def _monotone(name: str, roundings: int = 0) -> Rule:
    """For a function that grows with each entry, whatever its other arguments."""
    return lambda layer: Monotone(name, _called(layer), roundings)


def _softplus(layer: Layer) -> Operation:
    beta = getattr(layer.target, "beta", _arguments(layer, ("input", "beta"))[1])
    return _monotone_if(layer, beta, "softplus", "beta")


def _elu(layer: Layer) -> Operation:
    alpha = getattr(layer.target, "alpha", _arguments(layer, ("input", "alpha"))[1])
    return _monotone_if(layer, alpha, "elu", "alpha")


def _monotone_if(layer: Layer, parameter: float | None, name: str, parameter_name: str) -> Operation:
    if parameter is not None and parameter <= 0:
        raise layer.refused(f"falls where its {parameter_name} is not positive")
    return Monotone(name, _called(layer), 8)


def _sum(sign: int, *, reversed_: bool = False) -> Rule:
    def rule(layer: Layer) -> Operation:
        if layer.kwargs.get("alpha", 1) != 1:
            raise layer.refused("has an alpha: multiply before it")
        left, right = layer.args[:2]
        if reversed_:
            left, right = right, left
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


def _product(layer: Layer) -> Operation:
    left, right = layer.args[:2]
    if isinstance(left, Variable) and isinstance(right, Variable):
        if left.shape != right.shape:
            raise layer.refused("multiplies results of two shapes")
        return Multiply()
    if isinstance(left, Variable):
        return Scale(_constant(layer, right, left), None, terms=1)
    return Scale(_constant(layer, left, right), None, terms=1)


def _quotient(layer: Layer) -> Operation:
    left, right = layer.args[:2]
    if isinstance(right, Variable):
        raise layer.refused("divides by what depends on the image")
    return Scale(1 / _constant(layer, right, left), None, terms=2)


def _negative(layer: Layer) -> Operation:
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


def _joined(layer: Layer) -> Operation:
    return _together(layer, stacked=False)


def _stacked(layer: Layer) -> Operation:
    return _together(layer, stacked=True)


def _together(layer: Layer, *, stacked: bool) -> Operation:
    axis = layer.kwargs.get("dim", layer.args[1] if len(layer.args) > 1 else 0) % layer.result.ndim
    if axis == 0:
        raise layer.refused("joins batches")
    constants = tuple(None if isinstance(part, Variable) else _row(layer, part) for part in layer.args[0])
    return Concatenate(axis, constants, stacked)


def _row(layer: Layer, constant: Tensor) -> Tensor:
    if not torch.equal(constant[0], constant[-1]):
        raise layer.refused("treats the images of a batch differently")
    return constant[0].to(layer.result)


def _functional_linear(layer: Layer) -> Operation:
    return Linear(*_arguments(layer, ("input", "weight", "bias"))[1:])


def _functional_conv2d(layer: Layer) -> Operation:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, layer.args, strict=False)) | dict(layer.kwargs)
    image, weight = given.pop("input"), given.pop("weight")
    if given.get("padding") == "valid":
        given["padding"] = 0
    if isinstance(given.get("padding", 0), str):
        raise layer.refused("pads in a way that bounds are not known for: pad before it")
    return _conv2d(image, weight, **given)


def _arguments(layer: Layer, names: tuple[str, ...]) -> tuple[Any, ...]:
    given = dict(zip(names, layer.args, strict=False)) | dict(layer.kwargs)
    return tuple(given.get(name) for name in names)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


# 8 roundings are more than PyTorch's exponentials and tangents take, which are tested to 4.
_SIGMOID, _TANH, _CLAMP = _monotone("sigmoid", 8), _monotone("tanh", 8), _monotone("clamp")

MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear_module,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _relu,
    nn.LeakyReLU: _leaky_module,
    nn.Sigmoid: _SIGMOID,
    nn.Tanh: _TANH,
    nn.Softplus: _softplus,
    nn.ELU: _elu,
    nn.Hardtanh: _CLAMP,
    nn.ReLU6: _CLAMP,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _pooled,
    nn.AdaptiveAvgPool2d: _pooled,
    nn.Flatten: _rearranged,
    nn.Unflatten: _rearranged,
    nn.Identity: _unchanged,
    nn.Dropout: _unchanged,
    nn.Dropout2d: _unchanged,
    nn.ZeroPad2d: _padding_module,
    nn.ConstantPad2d: _padding_module,
    nn.Upsample: _upsampling,
}

# By the name of the function or of the method.
FUNCTIONS: dict[str, Rule] = {
    "linear": _functional_linear,
    "conv2d": _functional_conv2d,
    "relu": _relu,
    "relu_": _relu,
    "leaky_relu": _leaky_function,
    "sigmoid": _SIGMOID,
    "tanh": _TANH,
    "softplus": _softplus,
    "elu": _elu,
    "clamp": _CLAMP,
    "hardtanh": _CLAMP,
    "relu6": _CLAMP,
    "max_pool2d": _max_pool,
    "avg_pool2d": _pooled,
    "adaptive_avg_pool2d": _pooled,
    "mean": _averaged,
    "flatten": _rearranged,
    "reshape": _rearranged,
    "view": _rearranged,
    "unflatten": _rearranged,
    "squeeze": _rearranged,
    "unsqueeze": _rearranged,
    "permute": _moved,
    "transpose": _moved,
    "contiguous": _unchanged,
    "clone": _unchanged,
    "dropout": _dropped,
    "pad": _padded,
    "interpolate": _resized,
    "getitem": _chosen,
    "sum": _averaged,
    "cat": _joined,
    "concat": _joined,
    "stack": _stacked,
    "add": _sum(1),
    "iadd": _sum(1),
    "sub": _sum(-1),
    "isub": _sum(-1),
    "mul": _product,
    "imul": _product,
    "truediv": _quotient,
    "div": _quotient,
    "neg": _negative,
}
