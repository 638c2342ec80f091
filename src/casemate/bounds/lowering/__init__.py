"""What each layer and each function of PyTorch is among the operations: one entry in a table a layer.

A layer that is not in the tables is refused by name.
"""

from torch import nn

from casemate.bounds.lowering import arithmetic, arrangement, averages, linear, monotone, valleys
from casemate.bounds.lowering.layer import Layer as Layer
from casemate.bounds.lowering.layer import Rule
from casemate.bounds.lowering.layer import Variable as Variable
from casemate.bounds.operations import Operation
from casemate.errors import CasemateError

_SIGMOID = monotone.growing("sigmoid", monotone.ROUNDINGS)
_TANH = monotone.growing("tanh", monotone.ROUNDINGS)
_CLAMP = monotone.growing("clamp")
_GELU = valleys.falling_and_growing("gelu")
_SILU = valleys.falling_and_growing("silu")
_MISH = valleys.falling_and_growing("mish")

MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear.linear_module,
    nn.Conv2d: linear.conv2d_module,
    nn.BatchNorm1d: linear.batch_norm,
    nn.BatchNorm2d: linear.batch_norm,
    nn.ReLU: monotone.relu,
    nn.LeakyReLU: monotone.leaky_relu,
    nn.Sigmoid: _SIGMOID,
    nn.Tanh: _TANH,
    nn.Softplus: monotone.softplus,
    nn.ELU: monotone.elu,
    nn.GELU: _GELU,
    nn.SiLU: _SILU,
    nn.Mish: _MISH,
    nn.Hardtanh: _CLAMP,
    nn.ReLU6: _CLAMP,
    nn.MaxPool2d: monotone.max_pool2d,
    nn.AvgPool2d: averages.pooled,
    nn.AdaptiveAvgPool2d: averages.adaptively_pooled,
    nn.Flatten: arrangement.reshaped,
    nn.Unflatten: arrangement.reshaped,
    nn.Identity: arrangement.unchanged,
    nn.Dropout: arrangement.unchanged,
    nn.Dropout2d: arrangement.unchanged,
    nn.ZeroPad2d: arrangement.padding_module,
    nn.ConstantPad2d: arrangement.padding_module,
    nn.Upsample: averages.resized,
}

# By the name of the function or of the method.
FUNCTIONS: dict[str, Rule] = {
    "linear": linear.linear,
    "conv2d": linear.conv2d,
    "relu": monotone.relu,
    "relu_": monotone.relu,
    "leaky_relu": monotone.leaky_relu,
    "sigmoid": _SIGMOID,
    "tanh": _TANH,
    "softplus": monotone.softplus,
    "elu": monotone.elu,
    "gelu": _GELU,
    "silu": _SILU,
    "mish": _MISH,
    "clamp": _CLAMP,
    "hardtanh": _CLAMP,
    "relu6": _CLAMP,
    "max_pool2d": monotone.max_pool2d,
    "avg_pool2d": averages.pooled,
    "adaptive_avg_pool2d": averages.adaptively_pooled,
    "mean": averages.averaged,
    "flatten": arrangement.reshaped,
    "reshape": arrangement.reshaped,
    "view": arrangement.reshaped,
    "unflatten": arrangement.reshaped,
    "squeeze": arrangement.reshaped,
    "unsqueeze": arrangement.reshaped,
    "permute": arrangement.permuted,
    "transpose": arrangement.transposed,
    "contiguous": arrangement.unchanged,
    "clone": arrangement.unchanged,
    "dropout": arrangement.dropped,
    "pad": arrangement.padded,
    "interpolate": averages.resized,
    "getitem": arrangement.chosen,
    "sum": averages.averaged,
    "cat": arrangement.concatenated,
    "concat": arrangement.concatenated,
    "stack": arrangement.stacked,
    "add": arithmetic.sum_of(1),
    "iadd": arithmetic.sum_of(1),
    "sub": arithmetic.sum_of(-1),
    "isub": arithmetic.sum_of(-1),
    "mul": arithmetic.product,
    "imul": arithmetic.product,
    "truediv": arithmetic.quotient,
    "div": arithmetic.quotient,
    "neg": arithmetic.negative,
}


def lower(layer: Layer) -> Operation:
    """The operation that computes `layer`; raises `CasemateError` naming a layer that there is none for."""
    if layer.result.ndim < 1 or len(layer.result) != 2:
        raise layer.refused("does not keep one row for each image of a batch")
    if isinstance(layer.target, nn.Module):
        rule: Rule | None = MODULES.get(type(layer.target))
    else:
        name = layer.target if isinstance(layer.target, str) else getattr(layer.target, "__name__", "")
        rule = FUNCTIONS.get(name)
    if rule is None:
        raise layer.refused("is none that bounds are known for")
    try:
        return rule(layer)
    except CasemateError:
        raise
    except Exception as error:
        # Called in a way that its rule did not expect, which must not end an audit.
        raise layer.refused(f"is called in a way that bounds are not known for: {error}") from error
