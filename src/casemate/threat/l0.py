"""A few pixels of the adversary's choice, anywhere."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from casemate import rng
from casemate.errors import CasemateError
from casemate.threat.norms import Distances, Gradients, Images


@dataclass(frozen=True)
class L0:
    """Up to `pixels` positions take any values in [0, 1], all channels of a position together; the rest stays.

    Its distances count positions, and its set has no slack: a position has moved or it has not.
    """

    pixels: int

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, int) or self.pixels < 1:
            raise CasemateError(f"l0 allows a whole number of pixels, 1 or more, not {self.pixels!r}")

    def __str__(self) -> str:
        return f"l0:{self.pixels}"

    @property
    def eps(self) -> float:
        return float(self.pixels)

    def project(self, x_adv: Images, x: Images) -> Images:
        """Exact: the pixels that bring the image nearest to `x_adv` move there as far as the box lets them."""
        nearest = x_adv.clamp(0, 1)
        return torch.where(_largest(gained(nearest, x_adv, x), self.pixels), nearest, x)

    def sample(self, x: Images, keys: rng.Keys) -> Images:
        """Pixels drawn at random, each with values drawn at random."""
        places = rng.uniform(rng.fold(keys, "places"), x.shape[2:])
        return torch.where(_largest(places, self.pixels), rng.uniform(rng.fold(keys, "values"), x.shape[1:]), x)

    def ascent(self, gradient: Gradients, x_adv: Images) -> Images:
        """One pixel, by the sign of the gradient: the one where the box leaves room for the largest growth."""
        best = _largest(room_for_growth(gradient, x_adv), 1)
        return gradient.sign().to(x_adv.dtype) * best

    def measure(self, x_adv: Images, x: Images) -> Distances:
        return changed(x_adv, x).flatten(1).sum(dim=1).double()

    def contains(self, x_adv: Images, x: Images) -> Bool[Tensor, "batch"]:
        return (self.measure(x_adv, x) <= self.pixels) & ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(dim=1)


def changed(x_adv: Images, x: Images) -> Bool[Tensor, "batch height width"]:
    """The positions at which any channel differs."""
    return (x_adv != x).any(dim=1)


def gained(nearest: Images, x_adv: Images, x: Images) -> Tensor:
    """By how much the squared distance to `x_adv` falls where a pixel moves from x to `nearest`, [batch, h, w]."""
    wanted = x_adv.double()
    return ((wanted - x.double()).square() - (wanted - nearest.double()).square()).sum(dim=1)


def room_for_growth(gradient: Gradients, x_adv: Images) -> Tensor:
    """How much a linear loss grows where a pixel moves as far as the box lets it, [batch, height, width]."""
    room = torch.where(gradient > 0, 1 - x_adv, x_adv).double()
    return (gradient.double().abs() * room).sum(dim=1)


def _largest(score: Tensor, n: int) -> Bool[Tensor, "batch 1 height width"]:
    """The `n` positions with the largest scores [batch, height, width]."""
    flat = score.flatten(1)
    top = flat.topk(min(n, flat.shape[1]), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, top, True).view_as(score)[:, None]
