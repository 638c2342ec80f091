"""Zonotopes and hybrid zonotopes: a centre, errors that entries share, and an error of each entry's own.

Mirman, Gehr and Vechev, "Differentiable abstract interpretation for provably robust neural networks", ICML 2018. An
entry is c + sum_e E_e x_e + b x with all of the x in [-1, 1]: the x_e are shared by all entries, the last x is its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from casemate.bounds.bounded import Bounded
from casemate.bounds.interpreter import Domain, Rule
from casemate.bounds.interval import Interval, Intervals
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
from casemate.bounds.relus import Transformer, least_area
from casemate.bounds.rounding import Rounding


@dataclass(frozen=True, eq=False)
class Zonotope(Bounded):
    """centre and box [batch, *shape]; `errors` [batch, error, *shape] by what brought them in, so that sums match them.

    A key stands for the image or for one layer.
    """

    centre: Values
    box: Values
    errors: Mapping[object, Tensor]

    @property
    def radius(self) -> Values:  # type: ignore[override]
        return self.box + sum((errors.abs().sum(dim=1) for errors in self.errors.values()), torch.zeros_like(self.box))

    @property
    def n_errors(self) -> int:  # type: ignore[override]
        return 1 + sum(errors.shape[1] for errors in self.errors.values())

    def least(self, weight: Tensor) -> Tensor:
        """The least of weight [batch, row, entry] times the entries [batch, entry]."""
        least = torch.einsum("brf,bf->br", weight, self.centre)
        least = least - torch.einsum("brf,bf->br", weight.abs(), self.box)
        for errors in self.errors.values():
            least = least - torch.einsum("brf,bef->bre", weight, errors).abs().sum(dim=2)
        return least


@dataclass(frozen=True)
class Zonotopes(Domain[Zonotope]):
    """The domain. With `hybrid` what a ReLU loses stays an error of each entry's own, else it becomes a shared one.

    `relu` is one of `relus.TRANSFORMERS`. Without `rounding` the bounds are those of a training. Functions that are
    neither affine nor a ReLU forget what is shared.
    """

    rounding: Rounding | None = None
    relu: Transformer = least_area
    hybrid: bool = False

    name = "zonotope"

    @property
    def rules(self) -> Mapping[type[Operation], Rule]:  # type: ignore[override]
        return RULES

    @property
    def intervals(self) -> Intervals:
        return Intervals(self.rounding)

    def of(self, box: Interval) -> Zonotope:
        """A box of images, whose every value has an error that the layers behind it share."""
        n = box.radius[0].numel()
        errors = torch.diag_embed(box.radius.flatten(1)).unflatten(2, box.radius.shape[1:])
        return Zonotope(box.centre, torch.zeros_like(box.centre), {"image": errors} if n else {})

    def affine(self, operation: Affine, x: Zonotope) -> Zonotope:
        box, gamma = x.box, 0.0
        if self.rounding is not None:
            # What columns lose is part of what their magnitudes do, and goes to the error of each entry's own.
            gamma = self._gamma(operation.terms, x)
            box = box + gamma * x.size
        centre, box = operation.shifted(x.centre), operation.absolute(box)
        if self.rounding is not None:
            box = box + self.rounding.tiny(operation.terms)
            if operation.magnitude is not None:
                box = box + gamma * operation.magnitude
        errors = {key: _each(operation, columns) for key, columns in x.errors.items()}
        return Zonotope(centre, box, errors)

    def rectify(self, operation: LeakyReLU, x: Zonotope) -> Zonotope:
        """max(x, slope x) = slope x + (1 - slope) relu(x)."""
        lower, upper = x.lower, x.upper
        open_, active = (lower < 0) & (upper > 0), (lower >= 0).to(lower)
        # Entries of known sign are kept out of what divides by the width.
        found = self.relu(x.centre, x.box, torch.where(open_, lower, -1), torch.where(open_, upper, 1))
        kept, leak = 1 - operation.slope, operation.slope
        scale = leak + kept * torch.where(open_, found.scale, active)
        centre = leak * x.centre + kept * torch.where(open_, found.centre, active * x.centre)
        box = leak * x.box + kept * torch.where(open_, found.box, active * x.box)
        if self.rounding is not None:
            box = box + self._gamma(8, x) * x.size
        errors = {key: columns * scale[:, None] for key, columns in x.errors.items()}
        if not self.hybrid:
            box, errors = _shared(box, errors, open_)
        return Zonotope(centre, box, errors)

    def monotone(self, operation: Monotone, x: Zonotope) -> Zonotope:
        return _forgetful(self.intervals.monotone(operation, self._interval(x)))

    def valley(self, operation: Valley, x: Zonotope) -> Zonotope:
        return _forgetful(self.intervals.valley(operation, self._interval(x)))

    def add(self, operation: Add, left: Zonotope, right: Zonotope) -> Zonotope:
        box = left.box + right.box
        if self.rounding is not None:
            box = box + self._gamma(2, left, right) * (left.size + right.size)
        errors = dict(left.errors)
        for key, columns in right.errors.items():
            signed = operation.sign * columns
            errors[key] = errors[key] + signed if key in errors else signed
        return Zonotope(left.centre + operation.sign * right.centre, box, errors)

    def concatenate(self, operation: Concatenate, *parts: Zonotope) -> Zonotope:
        keys = dict.fromkeys(key for part in parts for key in part.errors)
        errors = {}
        for key in keys:
            n = next(part.errors[key].shape[1] for part in parts if key in part.errors)
            columns = [
                part.errors.get(key, part.centre.new_zeros(len(part.centre), n, *part.centre.shape[1:]))
                for part in parts
            ]
            flat = operation.join([column.flatten(0, 1) for column in columns], zeros=True)
            errors[key] = flat.unflatten(0, columns[0].shape[:2])
        return Zonotope(
            operation.join([part.centre for part in parts]),
            operation.join([part.box for part in parts], zeros=True),
            errors,
        )

    def multiply(self, operation: Multiply, left: Zonotope, right: Zonotope) -> Zonotope:
        return _forgetful(self.intervals.multiply(operation, self._interval(left), self._interval(right)))

    def _interval(self, x: Zonotope) -> Interval:
        return self.intervals.between(x.lower, x.upper)

    def _gamma(self, terms: int, *values: Zonotope) -> float:
        """Also for the sum over all errors, which the bounds of an entry are."""
        assert self.rounding is not None
        return self.rounding.gamma(terms) + self.rounding.summing(sum(value.n_errors for value in values))


RULES: Mapping[type[Operation], Rule] = {
    Affine: Zonotopes.affine,
    LeakyReLU: Zonotopes.rectify,
    Monotone: Zonotopes.monotone,
    Valley: Zonotopes.valley,
    Add: Zonotopes.add,
    Concatenate: Zonotopes.concatenate,
    Multiply: Zonotopes.multiply,
}


def _each(operation: Affine, columns: Tensor) -> Tensor:
    """A x for each column of errors."""
    return operation.linear(columns.flatten(0, 1)).unflatten(0, columns.shape[:2])


def _forgetful(box: Interval) -> Zonotope:
    return Zonotope(box.centre, box.radius, {})


def _shared(box: Values, errors: Mapping[object, Tensor], where: Tensor) -> tuple[Values, dict[object, Tensor]]:
    """The error of each entry `where` it is new becomes one that the layers behind it share."""
    flat, wanted = box.flatten(1), where.flatten(1)
    n_columns = int(wanted.sum(dim=1).max()) if len(box) else 0
    if not n_columns:
        return box, dict(errors)
    # The wanted entries come first; an image with fewer of them has columns of zeros.
    at = wanted.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :n_columns]
    sizes = flat.gather(1, at) * wanted.gather(1, at)
    columns = flat.new_zeros(*at.shape, flat.shape[1]).scatter(2, at[:, :, None], sizes[:, :, None])
    rest = torch.where(wanted, 0, flat)
    return rest.view_as(box), {**errors, object(): columns.unflatten(2, box.shape[1:])}
