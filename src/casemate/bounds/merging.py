"""Fewer layers for the same function: the scale after a layer, as of batch normalisation, taken into its weights."""

from dataclasses import replace

from casemate.bounds.graph import Graph, Node
from casemate.bounds.operations import Conv2d, Linear, Scale


def merged(graph: Graph) -> Graph:
    """`graph` with every scale by channel, or by feature, taken into the layer before it where nothing else reads that.

    The function is the same but not its rounding, so this is for training, which proves nothing.
    """
    readers = graph.readers()
    nodes: list[Node] = []
    place_of: list[int] = []
    for node in graph.nodes:
        inputs = tuple(place_of[source] for source in node.inputs)
        joined = None
        if isinstance(node.operation, Scale) and len(readers[node.inputs[0]]) == 1:
            joined = _joined(nodes[inputs[0]].operation, node.operation)
        if joined is None:
            place_of.append(len(nodes))
            nodes.append(replace(node, inputs=inputs))
        else:
            # The one reader of the layer before, so that this can stand in its place.
            place_of.append(inputs[0])
            nodes[inputs[0]] = replace(nodes[inputs[0]], name=node.name, operation=joined)
    return Graph(tuple(nodes))


def _joined(layer: object, scale: Scale) -> Conv2d | Linear | None:
    """The layer and then the scale as one layer; None where that is not possible."""
    if not isinstance(layer, Conv2d | Linear):
        return None
    n_out = len(layer.weight)
    # One number for each row of the weight.
    shape = (n_out, *[1] * (layer.weight.ndim - 2))
    factor, shift = scale.factor, scale.shift
    if factor.shape != shape or (shift is not None and shift.shape != shape):
        return None
    factor = factor.flatten()
    bias = None if layer.bias is None else layer.bias * factor
    if shift is not None:
        bias = shift.flatten() if bias is None else bias + shift.flatten()
    return replace(layer, weight=layer.weight * factor.view(n_out, *[1] * (layer.weight.ndim - 1)), bias=bias)
