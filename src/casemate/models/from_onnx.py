"""ONNX networks that are a chain of affine layers and ReLUs, as modules that bounds can be traced through."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from casemate.errors import CasemateError, first_line


def read_network(path: Path) -> tuple[nn.Sequential, tuple[int, ...]]:
    """The network of an ONNX file, in eval mode, and the shape [channel, height, width] of its input.

    An input of fewer dimensions is given trailing ones, which the Flatten that has to come first then takes away. Known
    operators: Flatten, Gemm, MatMul, Add and Sub of a constant vector, Relu, Conv and BatchNormalization. Raises
    `CasemateError` for a file that cannot be read, for another operator and for a network that is no chain.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise CasemateError("reading ONNX files needs the extra: pip install 'casemate[onnx]'") from None
    try:
        graph = onnx.load(str(path)).graph
    except OSError as error:
        raise CasemateError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:
        raise CasemateError(f"{path} cannot be read as ONNX: {first_line(error, 'damaged')}") from None
    constants = {part.name: torch.from_numpy(numpy_helper.to_array(part).copy()) for part in graph.initializer}
    inputs = [part for part in graph.input if part.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise CasemateError(f"{path} needs one input and one output")
    dims = [part.dim_value for part in inputs[0].type.tensor_type.shape.dim][1:]
    if not dims or len(dims) > 3 or not all(dims):
        raise CasemateError(f"{path} needs an input of one to three fixed dimensions beside the batch, not {dims}")
    if len(dims) < 3 and (not graph.node or graph.node[0].op_type != "Flatten"):
        raise CasemateError(f"{path} needs an input [batch, channel, height, width] or a Flatten that comes first")
    layers: list[nn.Module] = []
    last = inputs[0].name
    for node in graph.node:
        attributes = {part.name: onnx.helper.get_attribute_value(part) for part in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            constants[node.output[0]] = torch.from_numpy(numpy_helper.to_array(attributes["value"]).copy())
            continue
        if node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
            continue
        if not node.input or node.input[0] != last or any(name not in constants for name in node.input[1:] if name):
            raise CasemateError(f"{path} is not a chain of layers at {node.name or node.op_type}")
        given = [constants[name] for name in node.input[1:] if name]
        if node.op_type == "BatchNormalization" and len(given) == 4 and not attributes.get("training_mode", 0):
            flat = any(isinstance(layer, nn.Flatten | nn.Linear) for layer in layers)
            layers.append(_normalisation(given, attributes, flat))
        else:
            layers.append(_layer(node.op_type, given, attributes))
        last = node.output[0]
    if last != graph.output[0].name:
        raise CasemateError(f"{path} has an output that is not that of its last layer")
    return nn.Sequential(*layers).eval().requires_grad_(False), (*dims, 1, 1)[:3]


def _layer(kind: str, constants: list[Tensor], attributes: Mapping[str, Any]) -> nn.Module:
    match kind, len(constants):
        case "Flatten", 0 if attributes.get("axis", 1) == 1:
            return nn.Flatten()
        case "Relu", 0:
            return nn.ReLU()
        case "Gemm", 1 | 2 if not attributes.get("transA", 0):
            weight = constants[0] if attributes.get("transB", 0) else constants[0].T
            bias = constants[1] if len(constants) == 2 else torch.zeros(len(weight))
            return _linear(attributes.get("alpha", 1.0) * weight, attributes.get("beta", 1.0) * bias)
        case "MatMul", 1 if constants[0].ndim == 2:
            return _linear(constants[0].T, torch.zeros(constants[0].shape[1]))
        case "Add" | "Sub", 1 if constants[0].numel() == constants[0].shape[-1:].numel() > 1:
            vector = constants[0].flatten()
            return _linear(torch.eye(len(vector)), vector if kind == "Add" else -vector)
        case "Conv", 1 | 2:
            return _convolution(constants, attributes)
    raise CasemateError(
        f"the ONNX operator {kind} is not known in this form: "
        "use Flatten, Gemm, MatMul, Relu, Conv or BatchNormalization"
    )


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight.contiguous()), nn.Parameter(bias.expand(len(weight)).contiguous())
    return layer


def _normalisation(constants: list[Tensor], attributes: Mapping[str, Any], flat: bool) -> nn.Module:
    scale, bias, mean, variance = constants
    kind = nn.BatchNorm1d if flat else nn.BatchNorm2d
    layer = kind(len(scale), eps=attributes.get("epsilon", 1e-5))
    layer.weight, layer.bias = nn.Parameter(scale), nn.Parameter(bias)
    layer.running_mean, layer.running_var = mean, variance
    return layer


def _convolution(constants: list[Tensor], attributes: Mapping[str, Any]) -> nn.Conv2d:
    weight = constants[0]
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    automatic = attributes.get("auto_pad", b"NOTSET")
    if weight.ndim != 4 or pads[:2] != pads[2:] or automatic not in (b"NOTSET", b"VALID"):
        raise CasemateError("an ONNX Conv is known in two dimensions with the same padding on both sides alone")
    groups = attributes.get("group", 1)
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=tuple(attributes.get("strides", (1, 1))),
        padding=tuple(pads[:2]),
        dilation=tuple(attributes.get("dilations", (1, 1))),
        groups=groups,
        bias=len(constants) == 2,
    )
    layer.weight = nn.Parameter(weight)
    if len(constants) == 2:
        layer.bias = nn.Parameter(constants[1])
    return layer
