"""One walk through a graph for every domain that goes forward from the image."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from casemate.bounds.graph import Graph, Node
from casemate.bounds.operations import Operation
from casemate.errors import CasemateError

Value = TypeVar("Value")
# What a domain makes of an operation and the values of its inputs.
Rule = Callable[..., Any]


class Domain(Generic[Value]):
    """An abstract domain: a name, and one rule for each kind of operation it knows.

    A rule is called as rule(domain, operation, *values). An operation is met by the rule for its own class or else for
    the nearest of those it is made from: a ReLU by that for monotone functions where the domain has none for ReLUs.
    """

    name: str
    rules: Mapping[type[Operation], Rule]

    def apply(self, node: Node, *values: Value) -> Value:
        """The value of `node` from those of its inputs; raises `CasemateError` naming the layer and the domain."""
        return rule_for(self.rules, node, self.name)(self, node.operation, *values)


def rule_for(rules: Mapping[type[Operation], Rule], node: Node, domain: str) -> Rule:
    """The rule for the operation of `node`; raises `CasemateError` naming the layer and the domain."""
    for kind in type(node.operation).__mro__:
        if kind in rules:
            return rules[kind]
    what = getattr(node.operation, "name", type(node.operation).__name__)
    raise CasemateError(f"the layer {node.name} ({what}) has no rule in the domain {domain!r}")


def propagate(graph: Graph, domain: Domain[Value], image: Value, *, forget: bool = False) -> list[Value]:
    """The value of every node, of which that of the image is given.

    With `forget` only those of the last node and of what it reads are kept, and their memory is used again; the image
    stands in the place of the others.
    """
    values: list[Value] = [image]
    last_reader = {source: place for place, node in enumerate(graph.nodes) for source in node.inputs}
    end = len(graph.nodes) - 1
    for place, node in enumerate(graph.nodes[1:], 1):
        values.append(domain.apply(node, *(values[source] for source in node.inputs)))
        if forget and place < end:
            for source in node.inputs:
                if last_reader[source] == place:
                    values[source] = image
    return values
