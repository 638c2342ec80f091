"""The goals of DiffAI v3: each maps a batch to a loss. Their names and arguments are those of its language.

Mirman, Gehr and Vechev 2018 (ICML); Mirman, Singh and Vechev 2019, "A provable defense for deep residual networks"
(arXiv:1903.12519). A width `w` of None is eps of the recipe's threat model.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from casemate import rng
from casemate.bounds import Zonotopes
from casemate.bounds.relus import transformer
from casemate.threat import Images
from casemate.training.certified import DOMAIN
from casemate.training.diffai.batch import Batch
from casemate.training.diffai.schedules import Schedule

Width = Schedule | None


class Goal(Protocol):
    """A scalar loss of a batch."""

    def loss(self, batch: Batch) -> Tensor: ...


class Attack(Goal, Protocol):
    """A goal that is the loss at a point it looks for, which others can take as well."""

    def points(self, batch: Batch) -> Images: ...


def width(w: Width, batch: Batch) -> float:
    """`w` at the time of the batch, and no less than 0."""
    return batch.threat.eps if w is None else max(w.at(batch.epoch), 0.0)


@dataclass(frozen=True)
class Point:
    """The images as they are."""

    def loss(self, batch: Batch) -> Tensor:
        return batch.clean()

    def points(self, batch: Batch) -> Images:
        return batch.x


@dataclass(frozen=True)
class NormalPoint:
    """Normal noise of standard deviation `w`."""

    w: Width = None

    def points(self, batch: Batch) -> Images:
        noise = rng.normal(rng.fold(batch.keys, "noise"), batch.x.shape[1:])
        return (batch.x + width(self.w, batch) * noise).clamp(0, 1)

    def loss(self, batch: Batch) -> Tensor:
        return batch.at(self.points(batch))


@dataclass(frozen=True)
class IFGSM:
    """`k` steps of r w / k along the sign of the gradient, from the image."""

    k: float = 5
    w: Width = None
    r: float = 1.0

    random_start: ClassVar[bool] = False

    def points(self, batch: Batch) -> Images:
        w = width(self.w, batch)
        return batch.attacked(w, int(self.k), self.r * w / self.k, random_start=self.random_start)

    def loss(self, batch: Batch) -> Tensor:
        return batch.at(self.points(batch))


@dataclass(frozen=True)
class PGD(IFGSM):
    """The same from a random point, in larger steps."""

    r: float = 5.0

    random_start: ClassVar[bool] = True


@dataclass(frozen=True)
class MIFGSM(IFGSM):
    """IFGSM along a mean of all gradients so far that decays by `mu` (Dong et al. 2018, arXiv:1710.06081)."""

    mu: float = 1.0

    def points(self, batch: Batch) -> Images:
        w = width(self.w, batch)
        return batch.attacked(w, int(self.k), self.r * w / self.k, random_start=False, momentum=self.mu)


@dataclass(frozen=True)
class Box:
    """Intervals over the ball of radius `w`."""

    w: Width = None

    def loss(self, batch: Batch) -> Tensor:
        return batch.over(DOMAIN, batch.box(batch.x, width(self.w, batch)))


@dataclass(frozen=True)
class _OverZonotopes:
    """Zonotopes over the ball of radius `w`, with an error for every value of the image."""

    w: Width = None

    relu: ClassVar[str]
    hybrid: ClassVar[bool]

    def loss(self, batch: Batch) -> Tensor:
        domain = Zonotopes(relu=transformer(self.relu), hybrid=self.hybrid)
        return batch.over(domain, domain.of(batch.box(batch.x, width(self.w, batch))))


# The letter says where a ReLU puts what is new: h to an error of each entry's own, z to one that is shared.
ZONOTOPES: dict[str, type[_OverZonotopes]] = {
    letter + name: type(letter + name, (_OverZonotopes,), {"relu": relu, "hybrid": hybrid, "__doc__": f"{relu} ReLUs."})
    for letter, hybrid in (("H", True), ("Z", False))
    for name, relu in (
        ("Box", "box"),
        ("Diag", "diagonal"),
        ("Switch", "switch"),
        ("Smooth", "smooth"),
        ("NIPS", "least-area"),
    )
}


@dataclass(frozen=True)
class InSamp:
    """Inclusion sampling: a box of radius `sub` w around a random point of the rest of the ball (arXiv:1903.12519)."""

    sub: Schedule
    w: Width = None

    def loss(self, batch: Batch) -> Tensor:
        eps, share = width(self.w, batch), min(max(self.sub.at(batch.epoch), 0.0), 1.0)
        rest = batch.ball(eps * (1 - share))
        centre = batch.x if rest is None else rest.sample(batch.x, rng.fold(batch.keys, "centre"))
        return batch.over(DOMAIN, batch.box(centre, eps * share))


@dataclass(frozen=True)
class AdvInclusion:
    """The same around a point that the attack `a` finds; its own width is to leave room for the box."""

    sub: Schedule
    a: Attack
    w: Width = None

    def loss(self, batch: Batch) -> Tensor:
        share = min(max(self.sub.at(batch.epoch), 0.0), 1.0)
        found = self.a.points(batch.within("attack"))
        centre = batch.x + (1 - share) * (found - batch.x)
        return batch.over(DOMAIN, batch.box(centre, width(self.w, batch) * share))


@dataclass(frozen=True)
class AdvDom:
    """The box whose opposite corners are the image and what the attack `a` finds."""

    a: Attack

    def loss(self, batch: Batch) -> Tensor:
        found = self.a.points(batch.within("attack"))
        return batch.over(DOMAIN, DOMAIN.between(torch.minimum(batch.x, found), torch.maximum(batch.x, found)))


@dataclass(frozen=True)
class BiAdv:
    """The box around the image that reaches as far on both sides as what the attack `a` finds on one."""

    a: Attack

    def loss(self, batch: Batch) -> Tensor:
        reach = (self.a.points(batch.within("attack")) - batch.x).abs()
        lower, upper = (batch.x - reach).clamp(min=0), (batch.x + reach).clamp(max=1)
        return batch.over(DOMAIN, DOMAIN.between(lower, upper))
