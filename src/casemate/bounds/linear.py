"""Linear bounds, propagated backwards: CROWN (Zhang et al. 2018, arXiv:1811.00866), which is also DeepPoly's domain.

A lower bound of C z, where z is the result of a node, is carried back as C z >= A h + d through the operations that
made z from h, until h is the image, where it is least at a corner of the box or on the border of the ball. On the way
each activation is replaced, between the bounds of its input, by a line above it and a line below it, and an entry of A
takes the one or the other by its sign. The bounds of the inputs of activations are found in the same way, from the
first to the last.

Rounding: at each operation |A| is multiplied by what the result of that operation may be off by, in the arithmetic of
the classifier and in that of these bounds (see `rounding`), and that is taken off. A computed A is the exact A of a
function that is off by no more than that, so nothing else is lost.
"""

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from casemate.bounds.box import Reach, Window
from casemate.bounds.coefficients import Bounds, Coefficients, Dense, together, units
from casemate.bounds.graph import Graph, Node
from casemate.bounds.interpreter import Rule, rule_for
from casemate.bounds.interval import Interval, Intervals
from casemate.bounds.operations import Add, Affine, Concatenate, LeakyReLU, MaxPool2d, Operation, Scale
from casemate.bounds.relaxation import Lines, Slope, lines
from casemate.bounds.specification import Margins, differences
from casemate.losses import Labels
from casemate.threat import L0, L1, L2, Images, Linf

# Bytes of coefficients in one pass back; more rows than fit are done in turn.
WORKING_SET = 64 * 2**20
# For each activation, by the number of its node, the slope of the line below it, as broadcasts to the values of the
# coefficients there: [batch or 1, row or 1, *shape] where they are dense. Where the sign of the input is open it is
# free between the leak and 1 (alpha-CROWN, Xu et al. 2021, arXiv:2011.13824).
Slopes = Mapping[int, Tensor]


@dataclass(eq=False)
class LinearBounds:
    """Bounds of every node of `graph` for some images, which are inside `image` and, in l2, l1 and l0, in the ball too.

    `boxes` holds an interval for each node that was reached so far. Without `tighten` they are those of the forward
    pass alone, which costs no pass back (CROWN-IBP, Zhang et al. 2020, arXiv:1906.06316), but for the first layer in
    l0: each of its entries is moved by the few pixels that it depends on most (Chiang et al. 2020, arXiv:2003.06693).
    """

    graph: Graph
    threat: Reach
    x: Images
    image: Interval
    domain: Intervals
    slope: Slope = "adaptive"
    tighten: bool = True
    # Of `time.monotonic`: what is not reached by then keeps its interval of the forward pass.
    deadline: float = math.inf
    boxes: list[Interval] = field(default_factory=list)
    _errors: dict[int, Tensor | None] = field(default_factory=dict)
    _relaxed: dict[int, Lines] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Go through the graph; every interval is that of the forward pass and, before activations, the linear one."""
        readers = self.graph.readers()
        self.boxes.append(self.image)
        for place, node in enumerate(self.graph.nodes[1:], 1):
            self.boxes.append(self.domain.apply(node, *(self.boxes[source] for source in node.inputs)))
            feeds = any(isinstance(self.graph.nodes[reader].operation, LeakyReLU) for reader in readers[place])
            if feeds and self._gains(node):
                self.boxes[place] = self._tightened(place)

    def lower(
        self,
        place: int,
        coefficients: Coefficients,
        slopes: Slopes | None = None,
        *,
        rounded: bool = True,
        added: Mapping[int, Tensor] | None = None,
        seen: dict[int, Coefficients] | None = None,
    ) -> Bounds:
        """What C z is at least, for the result z of the node `place`; without `rounded` up to rounding.

        `added` are coefficients [batch, row, *shape] of other nodes that are added to C z (the multipliers of
        beta-CROWN); `seen` is filled with the coefficients of the results of activations, by node, and of the image, 0.
        """
        pending = {place: coefficients}
        values = coefficients.values
        total = values.new_zeros(values.shape[:2])
        for at in range(place, 0, -1):
            if at not in pending:
                continue
            if added is not None and at in added:
                pending[at] = together(pending[at], Dense(added[at]))
            if seen is not None and isinstance(self.graph.nodes[at].operation, LeakyReLU):
                seen[at] = pending[at]
            node, a = self.graph.nodes[at], pending.pop(at)
            rule = rule_for(RULES, node, "linear")
            error = self._error(at) if rounded else None
            if error is not None:
                total = total - a.sum(a.values.abs(), error)
            constant, parts = rule(self, at, a, None if slopes is None else slopes.get(at))
            if constant is not None:
                total = total + constant
            for source, part in zip(node.inputs, parts, strict=True):
                pending[source] = together(pending[source], part) if source in pending else part
        if 0 not in pending:
            return total
        if seen is not None:
            seen[0] = pending[0]
        return total + self._least(pending[0])

    def margins(self, y: Labels, slopes: Slopes | None = None, *, rounded: bool = True) -> Margins:
        """Lower bounds of the logit of the label minus that of each rival."""
        rows = differences(y, self.graph.n_classes).to(self.image.centre)
        return self.lower(len(self.graph.nodes) - 1, Dense(rows), slopes, rounded=rounded)

    def between(self, boxes: Sequence[Interval]) -> "LinearBounds":
        """The same graph for a batch whose nodes are inside `boxes`; no interval is computed anew."""
        other = copy.copy(self)
        other.boxes, other.image = list(boxes), boxes[0]
        other.x = self.x.expand(len(boxes[0].centre), *self.x.shape[1:])
        other._errors, other._relaxed = {}, {}
        return other

    def _least(self, a: Coefficients) -> Bounds:
        """The least value of A x over the images allowed."""
        sizes = a.values.abs()
        rounding = self.domain.rounding
        lost = 0.0 if rounding is None else rounding.summing(prod(self.graph.nodes[0].shape))
        least = a.sum(a.values, self.image.centre) - a.sum(sizes, self.image.radius)
        if isinstance(self.threat, (L2, L1)):
            dual = sizes.flatten(2).norm(dim=2) if isinstance(self.threat, L2) else sizes.flatten(2).amax(dim=2)
            least = torch.maximum(least, a.sum(a.values, self.x) - self.threat.eps * dual * (1 + lost))
        elif isinstance(self.threat, L0):
            moved = torch.where(a.values > 0, a.per_entry(self.x), -a.per_entry(1 - self.x)) * a.values
            pixels = moved.sum(dim=2).flatten(2)
            spent = pixels.topk(min(self.threat.pixels, pixels.shape[2]), dim=2).values.sum(dim=2)
            least = torch.maximum(least, a.sum(a.values, self.x) - spent * (1 + 2 * lost))
        return least - lost * a.sum(sizes, self.image.size) if lost else least

    def _error(self, at: int) -> Tensor | None:
        """What each entry of the result of a node may be off by, [batch, *shape]; None for nothing."""
        if at not in self._errors:
            self._errors[at] = self._error_of(self.graph.nodes[at])
        return self._errors[at]

    def _error_of(self, node: Node) -> Tensor | None:
        rounding, operation = self.domain.rounding, node.operation
        if rounding is None or isinstance(operation, Concatenate):
            return None
        size = self.boxes[node.inputs[0]].size
        # Coefficients are sums over the result of a node, and so is what its offset adds to the bound.
        lost = rounding.summing(prod(node.shape))
        if isinstance(operation, Affine):
            total = operation.absolute(size)
            if operation.magnitude is not None:
                total = total + operation.magnitude
            return (rounding.gamma(operation.terms) + lost) * total + rounding.tiny(operation.terms)
        if isinstance(operation, Add):
            return (rounding.gamma(2) + lost) * (size + self.boxes[node.inputs[1]].size)
        if isinstance(operation, MaxPool2d):
            return lost * operation.function(size)
        assert isinstance(operation, LeakyReLU)
        return (rounding.gamma(1) + lost if operation.slope else lost) * size

    def _gains(self, node: Node) -> bool:
        """Whether passes back are to tighten the interval of a node; one layer of a box has nothing to gain by them."""
        if not self._is_first(node):
            return self.tighten
        return isinstance(self.threat, L0) or (self.tighten and not isinstance(self.threat, (Linf, Window)))

    def _is_first(self, node: Node) -> bool:
        """Whether one affine layer and what moves no entry into another lead to a node.

        Two layers in a row that mix entries lose what these share.
        """
        n_mixing = 0
        while isinstance(node.operation, Affine):
            n_mixing += not isinstance(node.operation, Scale)
            if node.inputs[0] == 0:
                return n_mixing <= 1
            node = self.graph.nodes[node.inputs[0]]
        return False

    def _tightened(self, place: int) -> Interval:
        """The interval of a node whose entries with an open sign are bounded by passes back."""
        box = self.boxes[place]
        lower, upper = box.lower.flatten(1), box.upper.flatten(1)
        open_ = (lower < 0) & (upper > 0)
        n_rows = int(open_.sum(dim=1).max()) if len(open_) else 0
        if not n_rows:
            return box
        # The entries that are open come first; what else is bounded where another image has more of them is left, so
        # that the bounds of an image do not depend on the others.
        chosen = open_.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :n_rows]
        for at in chosen.split(self._rows_at_once(place), dim=1):
            if time.monotonic() >= self.deadline:
                break
            shape = self.graph.nodes[place].shape
            least, most = (self._at_least(place, units(at, shape, sign, lower)) for sign in (1, -1))
            own = open_.gather(1, at)
            lower = lower.scatter(1, at, _where_larger(own, lower.gather(1, at), least))
            upper = -(-upper).scatter(1, at, _where_larger(own, -upper.gather(1, at), most))
        return self.domain.between(lower.view_as(box.centre), upper.view_as(box.centre))

    def _at_least(self, place: int, coefficients: Coefficients) -> Bounds:
        """What rows of the result of a node are at least, for its interval."""
        return self.lower(place, coefficients)

    def _rows_at_once(self, place: int) -> int:
        largest = max(prod(node.shape) for node in self.graph.nodes[: place + 1])
        # Twice for the two signs, and again for what a step makes of the coefficients before it lets go of them.
        return max(1, WORKING_SET // (4 * len(self.x) * largest * self.image.centre.element_size()))

    def _affine(self, at: int, a: Coefficients, slope: Tensor | None) -> tuple[Tensor | None, list[Coefficients]]:
        operation = self.graph.nodes[at].operation
        assert isinstance(operation, Affine)
        offset = operation.offset
        constant = None if offset is None else a.sum(a.values, offset.expand(self.graph.nodes[at].shape)[None])
        return constant, [a.before(operation)]

    def _activation(self, at: int, a: Coefficients, slope: Tensor | None) -> tuple[Tensor, list[Coefficients]]:
        node = self.graph.nodes[at]
        assert isinstance(node.operation, LeakyReLU)
        found = self.relaxed(at)
        below = a.per_entry(found.below.slope)
        if slope is not None:
            below = torch.where(a.per_entry(found.open.to(slope)) > 0, slope, below)
        values = a.values
        constant = a.sum(values.clamp(max=0), found.above.shift)
        return constant, [a.with_values(values * torch.where(values > 0, below, a.per_entry(found.above.slope)))]

    def relaxed(self, at: int) -> Lines:
        """The lines around the activation that is the node `at`."""
        if at not in self._relaxed:
            node = self.graph.nodes[at]
            assert isinstance(node.operation, LeakyReLU)
            box = self.boxes[node.inputs[0]]
            self._relaxed[at] = lines(box.lower, box.upper, node.operation.slope, self.slope)
        return self._relaxed[at]

    def _max_pool(self, at: int, a: Coefficients, slope: Tensor | None) -> tuple[Tensor, list[Coefficients]]:
        """At least the entry with the largest lower bound, which it is where no other can be larger.

        Elsewhere at most a constant, the largest upper bound (Singh et al. 2019, section 4).
        """
        node = self.graph.nodes[at]
        assert isinstance(node.operation, MaxPool2d)
        shape, windows = self.graph.nodes[node.inputs[0]].shape, node.operation.windows
        box = self.boxes[node.inputs[0]]
        lower, upper = windows(box.lower), windows(box.upper)
        best = lower.argmax(dim=2, keepdim=True)
        others = upper.scatter(2, best, -torch.inf).amax(dim=2)
        decided = lower.gather(2, best).squeeze(2) >= others
        # In float64, whose integers are exact, because windows are cut from floats alone.
        numbers = torch.arange(prod(shape), dtype=torch.float64, device=lower.device).view(1, *shape)
        places = windows(numbers).expand_as(lower).gather(2, best).long().flatten(1)
        values = a.dense().values.flatten(3)
        through = torch.where((values > 0) | decided[:, None], values, 0)
        constant = ((values - through) * upper.amax(dim=2)[:, None]).flatten(2).sum(dim=2)
        before = values.new_zeros(*values.shape[:2], prod(shape))
        before = before.scatter_add(2, places[:, None].expand(-1, values.shape[1], -1), through.flatten(2))
        return constant, [Dense(before.unflatten(2, shape))]

    def _add(self, at: int, a: Coefficients, slope: Tensor | None) -> tuple[None, list[Coefficients]]:
        operation = self.graph.nodes[at].operation
        assert isinstance(operation, Add)
        return None, [a, a.with_values(operation.sign * a.values)]

    def _concatenate(self, at: int, a: Coefficients, slope: Tensor | None) -> tuple[Tensor | None, list[Coefficients]]:
        node = self.graph.nodes[at]
        operation = node.operation
        assert isinstance(operation, Concatenate)
        sizes = operation.sizes([self.graph.nodes[source].shape for source in node.inputs])
        parts = a.dense().values.split(sizes, dim=operation.axis + 1)
        if operation.stacked:
            parts = tuple(part.squeeze(operation.axis + 1) for part in parts)
        fixed = [
            Dense(part).sum(part, value.to(part)[None])
            for part, value in zip(parts, operation.constants, strict=True)
            if value is not None
        ]
        variable = [Dense(part) for part, value in zip(parts, operation.constants, strict=True) if value is None]
        return torch.stack(fixed).sum(dim=0) if fixed else None, list(variable)


def _where_larger(where: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return torch.where(where, torch.maximum(old, new), old)


RULES: Mapping[type[Operation], Rule] = {
    Affine: LinearBounds._affine,
    LeakyReLU: LinearBounds._activation,
    MaxPool2d: LinearBounds._max_pool,
    Add: LinearBounds._add,
    Concatenate: LinearBounds._concatenate,
}
