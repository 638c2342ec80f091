"""Single points: the domain in which a graph computes what its classifier does."""

from collections.abc import Mapping

from casemate.bounds.interpreter import Domain, Rule
from casemate.bounds.operations import Add, Affine, Concatenate, Monotone, Multiply, Operation, Valley, Values


class Points(Domain[Values]):
    """Every entry is one number."""

    name = "point"

    @property
    def rules(self) -> Mapping[type[Operation], Rule]:  # type: ignore[override]
        return RULES

    def affine(self, operation: Affine, x: Values) -> Values:
        return operation.shifted(x)

    def monotone(self, operation: Monotone, x: Values) -> Values:
        return operation.function(x)

    def valley(self, operation: Valley, x: Values) -> Values:
        return operation.function(x)

    def add(self, operation: Add, left: Values, right: Values) -> Values:
        return left + operation.sign * right

    def concatenate(self, operation: Concatenate, *parts: Values) -> Values:
        return operation.join(list(parts))

    def multiply(self, operation: Multiply, left: Values, right: Values) -> Values:
        return left * right


RULES: Mapping[type[Operation], Rule] = {
    Affine: Points.affine,
    Monotone: Points.monotone,
    Valley: Points.valley,
    Add: Points.add,
    Concatenate: Points.concatenate,
    Multiply: Points.multiply,
}
