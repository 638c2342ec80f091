"""Threat models: what the adversary may do to one image.

A threat model is a small frozen value. Its set for an image x is a norm ball of radius eps around x intersected with
the box [0, 1] of valid images. Images are float32 [batch, channel, height, width].

Rounding, defined here once. Images are stored in float32, so a point that is inside in exact arithmetic may move by
one rounding when it is stored. `contains` measures in float64 and allows `ROUNDING` = 2^-24 (the spacing of float32
numbers just below 1) for each pixel value, and nothing else: eps + 2^-24 for linf, eps + sqrt(n) 2^-24 for l2, and
eps + n 2^-24 for l1, with n the number of values in an image. The box has no slack. Casemate's own `project` and
`sample` round towards x and need no slack at all.
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from casemate import rng
from casemate.errors import CasemateError

Images = Float32[Tensor, "batch channel height width"]
Gradients = Float[Tensor, "batch channel height width"]
Distances = Float64[Tensor, "batch"]

ROUNDING = 2.0**-24


@runtime_checkable
class Threat(Protocol):
    """The set of images an adversary may turn x into.

    Every method treats each image of the batch by itself.
    """

    @property
    def eps(self) -> float:
        """The budget, in the units of the norm on [0, 1] images."""
        ...

    def project(self, x_adv: Images, x: Images) -> Images:
        """The nearest point (Euclidean) to `x_adv` in the ball around `x` and the box; inside in exact arithmetic."""
        ...

    def sample(self, x: Images, keys: rng.Keys) -> Images:
        """A point drawn uniformly from the ball around `x`, then clipped to the box (as Madry et al. 2018 start)."""
        ...

    def ascent(self, gradient: Gradients, x_adv: Images) -> Images:
        """The step of unit size, in the norm of the ball, along which a loss with this gradient grows most."""
        ...

    def measure(self, x_adv: Images, x: Images) -> Distances:
        """The distance between the two, in float64, in the units of eps."""
        ...

    def contains(self, x_adv: Images, x: Images) -> Bool[Tensor, "batch"]:
        """Whether each `x_adv` is in the set, up to float32 rounding as this module defines it."""
        ...


@dataclass(frozen=True)
class Linf:
    """No pixel value moves by more than `eps`."""

    eps: float

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def __str__(self) -> str:
        return f"linf:{_written(self.eps)}"

    def project(self, x_adv: Images, x: Images) -> Images:
        """Exact: ball and box are both boxes, so clipping to the two in turn is the projection."""
        # eps rounded down to float32, and then half an ulp is not enough: the sum or difference rounds once more.
        eps = _float32_below(self.eps)
        low = torch.minimum((x - eps).mul_(1 + 2**-22), x).clamp_(min=0)
        high = torch.maximum((x + eps).mul_(1 - 2**-22), x).clamp_(max=1)
        return torch.clamp(x_adv, low, high)

    def sample(self, x: Images, keys: rng.Keys) -> Images:
        return self.project(x + (2 * rng.uniform(keys, x.shape[1:]) - 1) * self.eps, x)

    def ascent(self, gradient: Gradients, x_adv: Images) -> Images:
        """The sign of the gradient: the fast gradient sign step (Goodfellow et al. 2015)."""
        return gradient.sign().to(x_adv.dtype)

    def measure(self, x_adv: Images, x: Images) -> Distances:
        return _difference(x_adv, x).abs().amax(dim=1)

    def contains(self, x_adv: Images, x: Images) -> Bool[Tensor, "batch"]:
        return (self.measure(x_adv, x) <= self.eps + ROUNDING) & _in_box(x_adv)


@dataclass(frozen=True)
class L2:
    """The Euclidean norm of the change is at most `eps`."""

    eps: float

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def __str__(self) -> str:
        return f"l2:{_written(self.eps)}"

    def project(self, x_adv: Images, x: Images) -> Images:
        """Exact: z = clip(x + t (x_adv - x)) with the one t in [0, 1] at which the clipped change has norm eps.

        That form is the KKT condition of min |z - x_adv|^2; the squared norm is a piecewise quadratic of t, whose
        root is found by sorting the values of t at which a pixel reaches the box.
        """
        delta = _difference(x_adv, x)
        room = _room(delta, x)
        needs = torch.minimum(delta.abs(), room).square().sum(dim=1) > self.eps * self.eps
        if needs.any():
            t = _l2_root(delta[needs].abs(), room[needs], self.eps)
            delta[needs] *= t[:, None]
        change = torch.minimum(delta.abs(), room) * delta.sign()
        return _towards(x, change, needs)

    def sample(self, x: Images, keys: rng.Keys) -> Images:
        direction = rng.normal(rng.fold(keys, "direction"), x.shape[1:]).flatten(1)
        radius = rng.uniform(rng.fold(keys, "radius"), (1,)) ** (1 / direction.shape[1])
        change = direction * (self.eps * radius / direction.norm(dim=1, keepdim=True))
        return self.project((x + change.view_as(x)).clamp(0, 1), x)

    def ascent(self, gradient: Gradients, x_adv: Images) -> Images:
        """The gradient divided by its norm; zero where the gradient is zero."""
        flat = gradient.flatten(1).to(x_adv.dtype)
        # Divided by the largest entry first, so that squares of tiny gradients do not underflow to zero.
        flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
        return (flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)).view_as(x_adv)

    def measure(self, x_adv: Images, x: Images) -> Distances:
        return _difference(x_adv, x).norm(dim=1)

    def contains(self, x_adv: Images, x: Images) -> Bool[Tensor, "batch"]:
        slack = ROUNDING * math.sqrt(x[0].numel()) if len(x) else 0.0
        return (self.measure(x_adv, x) <= self.eps + slack) & _in_box(x_adv)


@dataclass(frozen=True)
class L1:
    """The sum of the absolute changes is at most `eps`."""

    eps: float

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def __str__(self) -> str:
        return f"l1:{_written(self.eps)}"

    def project(self, x_adv: Images, x: Images) -> Images:
        """Exact: each change shrinks by the one lambda at which the clipped changes sum to eps (Croce & Hein 2021).

        The sum is piecewise linear in lambda ("Mind the box", ICML 2021, proposition 2.2); its root is found by
        sorting the values at which a pixel leaves the box's face and at which it reaches zero.
        """
        delta = _difference(x_adv, x)
        room = _room(delta, x)
        size = delta.abs()
        needs = torch.minimum(size, room).sum(dim=1) > self.eps
        if needs.any():
            size[needs] = (size[needs] - _l1_root(size[needs], room[needs], self.eps)[:, None]).clamp_(min=0)
        change = torch.minimum(size, room)
        # From so far off that size - lambda has no digits left, the sum may still be beyond eps.
        change *= self.eps / change.sum(dim=1, keepdim=True).clamp(min=self.eps)
        return _towards(x, change * delta.sign(), needs)

    def sample(self, x: Images, keys: rng.Keys) -> Images:
        n = x.shape[1:].numel()
        # n + 1 exponentials, normalised, are uniform on the simplex; dropping one makes them uniform in the ball.
        parts = rng.exponential(rng.fold(keys, "parts"), (n + 1,)).double()
        signs = (rng.uniform(rng.fold(keys, "signs"), (n,)) < 0.5).double() * 2 - 1
        change = self.eps * signs * parts[:, :n] / parts.sum(dim=1, keepdim=True).clamp(min=1e-300)
        return self.project((x + change.view_as(x).to(x.dtype)).clamp(0, 1), x)

    def ascent(self, gradient: Gradients, x_adv: Images) -> Images:
        """A sparse step: the largest 5% of the gradient entries that the box leaves room for, in their proportion.

        The steepest step changes one value only, which is slow; Tramer & Boneh 2019 (SLIDE) keep the signs of a top
        share, which spends as much on the least of them as on the largest: on linear models with heavy-tailed
        weights that reaches 30% of the optimum in 100 steps, and the proportion 67% (84% with steps of 10 eps / n).
        """
        blocked = ((x_adv <= 0) & (gradient < 0)) | ((x_adv >= 1) & (gradient > 0))
        free = gradient.masked_fill(blocked, 0).flatten(1).to(x_adv.dtype)
        k = max(1, math.ceil(0.05 * free.shape[1]))
        top = free.abs().topk(k, dim=1).indices
        step = torch.zeros_like(free).scatter_(1, top, free.gather(1, top))
        # Divided by the largest entry first, so that tiny gradients do not underflow.
        step = step / step.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(step.dtype).tiny)
        return (step / step.abs().sum(dim=1, keepdim=True).clamp(min=1e-12)).view_as(x_adv)

    def measure(self, x_adv: Images, x: Images) -> Distances:
        return _difference(x_adv, x).abs().sum(dim=1)

    def contains(self, x_adv: Images, x: Images) -> Bool[Tensor, "batch"]:
        slack = ROUNDING * x[0].numel() if len(x) else 0.0
        return (self.measure(x_adv, x) <= self.eps + slack) & _in_box(x_adv)


NORMS: dict[str, type[Linf] | type[L2] | type[L1]] = {"linf": Linf, "l2": L2, "l1": L1}


def with_eps(threat: Threat, eps: float) -> Linf | L2 | L1:
    """The threat model of the same norm with another budget; raises `CasemateError` where it has none of `NORMS`."""
    if not isinstance(threat, (Linf, L2, L1)):
        raise CasemateError(f"{threat} has no other budgets: its norm is none of {', '.join(NORMS)}")
    return replace(threat, eps=eps)


def _check_eps(eps: float) -> None:
    if not (isinstance(eps, (int, float)) and math.isfinite(eps) and eps > 0):
        raise CasemateError(f"eps must be a positive number on the scale of [0, 1] images, such as 8/255, not {eps!r}")


def _written(eps: float) -> str:
    """The shortest exact spelling: a fraction of 255 where eps is one and the decimal is longer, else the decimal."""
    levels = round(eps * 255)
    if levels and levels / 255 == eps and len(repr(eps)) > 8:
        return f"{levels}/255"
    return f"{eps:g}" if float(f"{eps:g}") == eps else repr(eps)


def _float32_below(value: float) -> float:
    rounded = torch.tensor(value, dtype=torch.float32)
    if rounded.double().item() > value:
        rounded = torch.nextafter(rounded, torch.tensor(0.0))
    return rounded.item()


def _difference(x_adv: Images, x: Images) -> Float64[Tensor, "batch values"]:
    return (x_adv.double() - x.double()).flatten(1)


def _in_box(x: Images) -> Bool[Tensor, "batch"]:
    return ((x >= 0) & (x <= 1)).flatten(1).all(dim=1)


def _room(delta: Float64[Tensor, "batch values"], x: Images) -> Float64[Tensor, "batch values"]:
    """How far each value can move in the direction of its change before it meets the box."""
    flat = x.flatten(1).double()
    return torch.where(delta > 0, 1 - flat, flat)


def _l2_root(
    size: Float64[Tensor, "batch values"], room: Float64[Tensor, "batch values"], eps: float
) -> Float64[Tensor, "batch"]:
    """The t in [0, 1] with sum min(t size, room)^2 = eps^2; the sum at t = 1 exceeds eps^2."""
    reaches = torch.where(size > 0, room / size.clamp(min=1e-300), torch.inf)
    reaches, order = reaches.sort(dim=1)
    size2, room2 = size.gather(1, order).square(), room.gather(1, order).square()
    # Between the k-th and the next value of t, the first k pixels sit at the box and the others still grow.
    stuck = torch.nn.functional.pad(room2.cumsum(dim=1), (1, 0))
    free = torch.nn.functional.pad(size2.flip(1).cumsum(dim=1).flip(1), (0, 1))
    # The sum at each breakpoint grows with it: the root lies in the first segment whose right end reaches eps^2.
    at_end = stuck[:, :-1] + torch.where(reaches.isinf(), torch.inf, reaches.square()) * free[:, :-1]
    segment = (at_end < eps * eps).sum(dim=1, keepdim=True).clamp(max=size.shape[1] - 1)
    left, slope = stuck.gather(1, segment), free.gather(1, segment)
    return ((eps * eps - left).clamp(min=0) / slope.clamp(min=1e-300)).sqrt().clamp(max=1).squeeze(1)


def _l1_root(
    size: Float64[Tensor, "batch values"], room: Float64[Tensor, "batch values"], eps: float
) -> Float64[Tensor, "batch"]:
    """The lambda >= 0 with sum min(max(size - lambda, 0), room) = eps; the sum at 0 exceeds eps."""
    # As lambda falls from the largest size to 0, a pixel starts to move at `size` and meets the box at `size - room`.
    breaks = torch.cat([size, size - room], dim=1)
    slopes = torch.cat([torch.ones_like(size), -torch.ones_like(size)], dim=1)
    breaks, order = breaks.sort(dim=1, descending=True)
    slopes = slopes.gather(1, order).cumsum(dim=1)
    widths = breaks[:, :-1] - breaks[:, 1:]
    total = torch.nn.functional.pad((widths * slopes[:, :-1]).cumsum(dim=1), (1, 0))
    segment = ((total < eps).sum(dim=1, keepdim=True) - 1).clamp(min=0)
    start, slope, at = total.gather(1, segment), slopes.gather(1, segment), breaks.gather(1, segment)
    return (at - (eps - start) / slope.clamp(min=1)).clamp(min=0).squeeze(1)


def _towards(x: Images, change: Float64[Tensor, "batch values"], shrunk: Bool[Tensor, "batch"]) -> Images:
    """x + change in float32, with every value that rounded away from x moved one float towards it.

    Images whose change was not `shrunk` are inside as they are and keep their bits.
    """
    exact = x.flatten(1).double() + change
    stored = exact.float()
    outward = ((stored.double() - exact) * change > 0) & shrunk[:, None]
    stored = torch.where(outward, torch.nextafter(stored, x.flatten(1)), stored)
    return stored.clamp_(0, 1).view_as(x)
