"""A classifier as a graph of operations: traced once by torch.fx, lowered whenever its weights changed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from casemate.bounds import lowering
from casemate.bounds.operations import Add, Concatenate, Multiply, Operation
from casemate.errors import CasemateError, first_line
from casemate.gradients import evaluating
from casemate.threat import Images


@dataclass(frozen=True, eq=False)
class Node:
    """An operation on the results of earlier nodes; `shape` is that of its own result for one image.

    `name` is how the classifier calls the layer.
    """

    name: str
    operation: Operation | None
    inputs: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in the order of computation; the first is the image, which no operation makes, the last are the logits."""

    nodes: tuple[Node, ...]

    @property
    def n_classes(self) -> int:
        return self.nodes[-1].shape[-1]

    def readers(self) -> list[list[int]]:
        """For each node the nodes that take its result."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for place, node in enumerate(self.nodes):
            for source in node.inputs:
                found[source].append(place)
        return found


class Tracing:
    """The computation of `model` on images like those of `example`, [batch, ...], in eval mode.

    Raises `CasemateError` where the model cannot be traced: where it decides by the values of an image, say, or where
    what was traced answers otherwise.
    """

    def __init__(self, model: nn.Module, example: Images) -> None:
        # Of two images, so that an axis of length 1 is not taken for the batch.
        pair = torch.cat([example[:1], 1 - example[:1]])
        with evaluating(model):
            try:
                self._traced = fx.GraphModule(model, fx.Tracer().trace(model))
            except Exception as error:
                reason = first_line(error, type(error).__name__)
                raise CasemateError(
                    f"the classifier cannot be traced, so that nothing can be proved: {reason}"
                ) from error
            with torch.no_grad():
                answer = model(pair.clone())
            self._values = _Recorder(self._traced).record(pair)
            _refuse_another_function(answer, self._values)

    def graph(self, statistics: Mapping[nn.Module, tuple[Tensor, Tensor]] | None = None) -> Graph:
        """The operations with the weights as they are now; raises `CasemateError` for a layer that is not known.

        `statistics` are the mean and variance to use in place of the running ones by layers of batch normalisation.
        """
        nodes: list[Node] = []
        # What does not depend on the image, and the numbers of the nodes that do.
        known: dict[fx.Node, Any] = {}
        place_of: dict[fx.Node, int] = {}

        def argument(value: Any) -> Any:
            return fx.map_arg(value, lambda node: known[node])

        for node in self._traced.graph.nodes:
            if node.op == "output":
                (result,) = node.args
                if not isinstance(result, fx.Node) or result not in place_of:
                    raise CasemateError("the classifier does not return one tensor that depends on the image")
                return Graph(_used(nodes, place_of[result]))
            variable = [source for source in _arguments_of(node) if source in place_of]
            recorded = self._values[node]
            if node.op == "placeholder":
                found = Node("image", None, (), tuple(recorded.shape[1:]))
            elif not variable:
                known[node] = self._constant(node, argument)
                continue
            elif _is_of_the_shape(node):
                # As it was for the pair that was traced.
                known[node] = recorded
                continue
            elif not isinstance(recorded, Tensor):
                raise CasemateError(
                    f"the layer {node.name} makes a {type(recorded).__name__} of what depends on the image, and bounds "
                    "are known for tensors"
                )
            else:
                self._refuse_overwriting(node)
                layer = self._layer(node, {source: self._values[source] for source in variable}, argument)
                layer = replace(layer, statistics=(statistics or {}).get(layer.target))
                inputs = tuple(place_of[source] for source in variable)
                operation = lowering.lower(layer)
                if len(inputs) != 1 and not isinstance(operation, Add | Concatenate | Multiply):
                    raise layer.refused("is known with one argument that depends on the image")
                found = Node(layer.name, operation, inputs, tuple(recorded.shape[1:]))
            place_of[node] = len(nodes)
            nodes.append(found)
        raise CasemateError("the classifier returns nothing")

    def _refuse_overwriting(self, node: fx.Node) -> None:
        """Raise `CasemateError` where a layer writes into a result that another one reads as well.

        The graph knows results by the layer that made them, so the other one would be given what was there before.
        """
        module = self._traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not _writes(node, module):
            return
        source = node.all_input_nodes[0]
        while len(source.users) == 1:
            if _called(source) not in VIEWS and not (
                source.op == "call_module" and isinstance(self._traced.get_submodule(str(source.target)), VIEW_MODULES)
            ):
                return
            # What is only another view of a result shares its memory.
            source = source.all_input_nodes[0]
        raise CasemateError(f"the layer {node.name} writes into what another layer reads: do not work in place there")

    def _constant(self, node: fx.Node, argument: Callable[[Any], Any]) -> Any:
        args, kwargs = argument(node.args), argument(node.kwargs)
        if node.op == "get_attr":
            return _attribute(self._traced, str(node.target))
        if node.op == "call_module":
            return self._traced.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _layer(self, node: fx.Node, values: Mapping[fx.Node, Tensor], argument: Callable[[Any], Any]) -> lowering.Layer:
        module = self._traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        target = str(node.target) if node.op == "call_method" else node.target
        name = str(node.target) if module is not None else _described(node)

        def marked(source: fx.Node) -> Any:
            return lowering.Variable(tuple(values[source].shape)) if source in values else argument(source)

        args, kwargs = fx.map_arg(node.args, marked), fx.map_arg(node.kwargs, marked)
        return lowering.Layer(name, target if module is None else module, tuple(args), dict(kwargs), self._values[node])


# What has no values of the image in it, only its shape.
OF_THE_SHAPE = frozenset(
    {"size", "dim", "numel", "new_ones", "new_zeros", "new_full", "ones_like", "zeros_like", "full_like"}
)
# What may share its memory with what it is given.
VIEWS = frozenset(
    {
        "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "getitem",
        "contiguous", "dropout",
    }
)  # fmt: skip
VIEW_MODULES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d)


def _is_of_the_shape(node: fx.Node) -> bool:
    attribute = node.args[1] if _called(node) == "getattr" else None
    return _called(node) in OF_THE_SHAPE or attribute in ("shape", "ndim", "dtype", "device")


def _called(node: fx.Node) -> str:
    """The name of the function or the method that a node calls; of a module or another node none."""
    if node.op not in ("call_function", "call_method"):
        return ""
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")


def _writes(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a call writes its result into the memory of its first argument."""
    name = _called(node)
    return (
        getattr(module, "inplace", False)
        or node.kwargs.get("inplace") is True
        # The names of torch end in one underscore, those of `operator` begin with an i.
        or (name.endswith("_") and not name.endswith("__"))
        or name in ("iadd", "isub", "imul", "itruediv")
        or True in [value for value in node.args if isinstance(value, bool)]
    )


class _Recorder(fx.Interpreter):
    """Runs the traced classifier and keeps what every node returned."""

    def record(self, x: Images) -> dict[fx.Node, Any]:
        self.values: dict[fx.Node, Any] = {}
        with torch.no_grad():
            self.run(x)
        return self.values

    def run_node(self, node: fx.Node) -> Any:
        try:
            value = super().run_node(node)
        except Exception as error:
            raise CasemateError(f"the classifier fails on an image of this shape, in {node.name}: {error}") from error
        self.values[node] = value
        return value


def _refuse_another_function(answer: object, values: dict[fx.Node, Any]) -> None:
    """Raise `CasemateError` where the classifier's own answer is not that of what was traced."""
    traced = next(reversed(values.values()))
    if isinstance(answer, Tensor) and isinstance(traced, Tensor) and answer.shape == traced.shape:
        scale = float(answer.abs().max()) if answer.numel() else 0.0
        if torch.allclose(answer, traced, rtol=1e-4, atol=1e-5 * scale + 1e-12, equal_nan=True):
            return
    raise CasemateError(
        "the classifier cannot be traced, so that nothing can be proved: what was traced answers otherwise, as where a "
        "result is changed in place"
    )


def _used(nodes: list[Node], last: int) -> tuple[Node, ...]:
    """The nodes up to `last` that it depends on, numbered anew; the image stays first."""
    needed = {0, last}
    for place in range(last, 0, -1):
        if place in needed:
            needed.update(nodes[place].inputs)
    order = {place: number for number, place in enumerate(sorted(needed))}
    return tuple(
        Node(node.name, node.operation, tuple(order[source] for source in node.inputs), node.shape)
        for place, node in enumerate(nodes)
        if place in needed
    )


def _arguments_of(node: fx.Node) -> list[fx.Node]:
    """The nodes among the arguments in their order; one that is there twice is twice in the list."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


def _attribute(module: nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _described(node: fx.Node) -> str:
    """Where in the classifier a function is called, as far as torch.fx tells."""
    stack = node.meta.get("nn_module_stack") or {}
    inside = next(reversed(list(stack.keys())), "") if stack else ""
    function = getattr(node.target, "__name__", str(node.target))
    return f"{inside}.{function}" if inside else function
