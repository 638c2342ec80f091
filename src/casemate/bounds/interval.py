"""Intervals: each entry has a range of its own (Gowal et al. 2018, section 3.1).

An interval is a centre and a radius, so that an affine layer takes two passes, W c + b and |W| r, for both of its ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from casemate.bounds.bounded import Bounded
from casemate.bounds.interpreter import Domain, Rule
from casemate.bounds.operations import (
    Add,
    Affine,
    Concatenate,
    LeakyReLU,
    Monotone,
    Multiply,
    Operation,
    Valley,
    Values,
)
from casemate.bounds.rectified import rectified
from casemate.bounds.rounding import Rounding


@dataclass(frozen=True, eq=False)
class Interval(Bounded):
    """All values from centre - radius to centre + radius, entry by entry; both [batch, ...]."""

    centre: Values
    radius: Values

    n_errors = 1

    def least(self, weight: Tensor) -> Tensor:
        """The least of weight [batch, row, entry] times the entries [batch, entry]."""
        centre = torch.einsum("brf,bf->br", weight, self.centre)
        return centre - torch.einsum("brf,bf->br", weight.abs(), self.radius)

    def contains(self, values: Values) -> Bool[Tensor, "batch"]:
        """Whether every entry is inside, for each image."""
        return ((values - self.centre).abs() <= self.radius).flatten(1).all(dim=1)


@dataclass(frozen=True)
class Intervals(Domain[Interval]):
    """The domain; without `rounding` the bounds are those of a training, close to but not quite sound."""

    rounding: Rounding | None = None

    name = "interval"

    @property
    def rules(self) -> Mapping[type[Operation], Rule]:  # type: ignore[override]
        return RULES

    def between(self, lower: Values, upper: Values) -> Interval:
        """The interval that contains both ends as they are computed."""
        centre, radius = (upper + lower).mul_(0.5), (upper - lower).mul_(0.5)
        if self.rounding is not None:
            radius = radius + self.rounding.bounding * 4 * (centre.abs() + radius)
        return Interval(centre, radius)

    def affine(self, operation: Affine, x: Interval) -> Interval:
        """W c + b and |W| r, the latter with what the magnitudes can lose to rounding."""
        radius, gamma = x.radius, 0.0
        if self.rounding is not None:
            gamma = self.rounding.gamma(operation.terms)
            radius = radius + gamma * x.size
        centre, radius = operation.shifted(x.centre), operation.absolute(radius)
        if self.rounding is not None:
            radius = radius + self.rounding.tiny(operation.terms)
            if operation.magnitude is not None:
                radius = radius + gamma * operation.magnitude
        return Interval(centre, radius)

    def rectify(self, operation: LeakyReLU, x: Interval) -> Interval:
        """As any monotone function, but for the ReLUs of a training, which spends much of its time on them."""
        if self.rounding is not None or operation.slope or x.centre.dtype != x.radius.dtype:
            return self.monotone(operation, x)
        return Interval(*rectified(x.centre, x.radius))

    def monotone(self, operation: Monotone, x: Interval) -> Interval:
        lower, upper = operation.function(x.lower), operation.function(x.upper)
        return self._computed(lower, upper, operation.roundings)

    def valley(self, operation: Valley, x: Interval) -> Interval:
        """From where the interval is nearest to the bottom to the larger of its ends."""
        ends = [operation.function(end) for end in (x.lower, x.upper)]
        bottom = torch.full_like(x.centre, operation.bottom)
        lowest = operation.function(torch.minimum(torch.maximum(bottom, x.lower), x.upper))
        return self._computed(lowest, torch.maximum(*ends), operation.roundings)

    def _computed(self, lower: Tensor, upper: Tensor, roundings: int) -> Interval:
        """Between two values of a function whose computation may be off by so many `roundings`."""
        if self.rounding is not None and roundings:
            unit = roundings * max(self.rounding.deployed, self.rounding.bounding)
            lower, upper = lower - unit * (1 + lower.abs()), upper + unit * (1 + upper.abs())
        return self.between(lower, upper)

    def add(self, operation: Add, left: Interval, right: Interval) -> Interval:
        centre, radius = left.centre + operation.sign * right.centre, left.radius + right.radius
        if self.rounding is not None:
            radius = radius + self.rounding.gamma(2) * (left.size + right.size)
        return Interval(centre, radius)

    def concatenate(self, operation: Concatenate, *parts: Interval) -> Interval:
        return Interval(
            operation.join([part.centre for part in parts]),
            operation.join([part.radius for part in parts], zeros=True),
        )

    def multiply(self, operation: Multiply, left: Interval, right: Interval) -> Interval:
        """The least and the largest of the products of the four corners."""
        corners = [a * b for a in (left.lower, left.upper) for b in (right.lower, right.upper)]
        product = self.between(torch.stack(corners).amin(dim=0), torch.stack(corners).amax(dim=0))
        if self.rounding is None:
            return product
        return Interval(product.centre, product.radius + self.rounding.gamma(4) * left.size * right.size)


RULES: Mapping[type[Operation], Rule] = {
    Affine: Intervals.affine,
    LeakyReLU: Intervals.rectify,
    Monotone: Intervals.monotone,
    Valley: Intervals.valley,
    Add: Intervals.add,
    Concatenate: Intervals.concatenate,
    Multiply: Intervals.multiply,
}
