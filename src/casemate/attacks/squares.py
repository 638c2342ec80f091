"""What the Square attack changes in one query: squares of one colour in linf, bumps in square windows in l2 and l1."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn import functional as F

from casemate import rng
from casemate.errors import CasemateError
from casemate.threat import L1, L2, Images, Linf, Threat

# Of the uniform numbers of one query the first say where its windows are and how its bump lies; one for the sign of
# each channel follows them.
N_PLACES = 5
# Of the piecewise linear equations solved for each query; a step too few leaves a little of the budget unspent.
NEWTON_STEPS = 5
# Of eps, for sums in float32 and for rounding: what is asked about is inside the threat model without a projection.
SLACK = 1e-5

Numbers = Float32[Tensor, "batch numbers"]
Number = Float32[Tensor, "batch"]
Pixels = Float32[Tensor, "batch pixels"]
Windows = Int64[Tensor, "batch channel positions"]
Values = Float32[Tensor, "batch channel positions"]


@runtime_checkable
class Squares(Protocol):
    """The moves of the attack in one norm, for each image by itself, all points inside the threat model.

    `anchors` is what the moves are measured against, found once for each image. `draws` are its uniform numbers in
    [0, 1) for this query, `N_PLACES` + channels; `share` is that of the image's pixels in a square.
    """

    def anchors(self, x: Images) -> tuple[Images, ...]: ...

    def start(self, anchors: tuple[Images, ...], keys: rng.Keys) -> Images: ...

    def moved(self, x_adv: Images, anchors: tuple[Images, ...], share: float, draws: Numbers) -> Images: ...


def squares_for(threat: Threat) -> Squares:
    """The moves in the norm of `threat`; raises `CasemateError` where it is not linf, l2 or l1."""
    if isinstance(threat, Linf):
        return ColourSquares(threat)
    if isinstance(threat, L2):
        return BumpSquares(threat, order=2, decay=2, overshoot=1)
    if isinstance(threat, L1):
        return BumpSquares(threat, order=1, decay=4, overshoot=2)
    raise CasemateError(f"Square searches in linf, l2 or l1, so {threat} is not a threat model for it")


@dataclass(frozen=True)
class ColourSquares:
    """A square is moved by eps in each channel, up or down (Andriushchenko et al. 2020, algorithm 2).

    Every value is at one of the ends of what linf and the box leave it, the anchors. A square that is there already
    would waste the query, every other one of the small ones in grey images: its negative is asked about instead.
    """

    threat: Linf

    def anchors(self, x: Images) -> tuple[Images, ...]:
        return self.threat.project(torch.zeros_like(x), x), self.threat.project(torch.ones_like(x), x)

    def start(self, anchors: tuple[Images, ...], keys: rng.Keys) -> Images:
        """Vertical stripes, one pixel wide."""
        low, high = anchors
        return torch.where(rng.uniform(keys, (low.shape[1], 1, low.shape[3])) < 0.5, high, low)

    def moved(self, x_adv: Images, anchors: tuple[Images, ...], share: float, draws: Numbers) -> Images:
        height, width = x_adv.shape[2:]
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        window = _window(x_adv, _anywhere(draws[:, 0], height, side), _anywhere(draws[:, 1], width, side), side)
        low, high, before = (images.flatten(2).gather(2, window) for images in (*anchors, x_adv))
        up = draws[:, N_PLACES:, None] < 0.5
        idle = (torch.where(up, high, low) == before).flatten(1).all(dim=1)
        after = torch.where(up ^ idle[:, None, None], high, low)
        return x_adv.flatten(2).scatter(2, window, after).view_as(x_adv)


@dataclass(frozen=True)
class BumpSquares:
    """A window is emptied, and what was there goes into a bump in another (Andriushchenko et al. 2020, algorithm 3).

    The mass of a change is the sum of |v|^`order`, eps^`order` at most: all of it is spent. A bump is a pyramid beside
    its negative, of rings that fall off with the `decay`-th power. In each channel the window to fill keeps its own
    mass, takes that of the window to empty and its part of what is not spent yet, and adds the bump, with a sign of
    its own, to the direction of the change in it.

    Two things are not as in the paper. The window to empty lies around a pixel drawn by its share of the mass, for a
    window drawn anywhere often holds little to take, and then the query is about next to the same image. And what the
    box cuts off the change in a window is made up for by the rest of it.

    In l1 Croce & Hein 2021 (their code for the l1 version) let the rings decay faster and fill the window with more
    than its due, the number of channels times as much, and project, so that all values pay for it alike and the small
    ones vanish. `overshoot` is that factor, the same for grey images.
    """

    threat: L2 | L1
    order: int
    decay: int
    overshoot: int

    def anchors(self, x: Images) -> tuple[Images, ...]:
        return (x,)

    def start(self, anchors: tuple[Images, ...], keys: rng.Keys) -> Images:
        """A grid of bumps, at least five along a side, each with signs of its own."""
        (x,) = anchors
        n, channels, height, width = x.shape
        side = max(1, min(height, width) // 5)
        rows, columns = height // side, width // side
        bump = _bump(side, self.order, self.decay, x.device)[:, None, :]
        turned = rng.uniform(rng.fold(keys, "turned"), (1, rows, 1, columns, 1)) < 0.5
        up = rng.uniform(rng.fold(keys, "signs"), (channels, rows, 1, columns, 1)) < 0.5
        bumps = torch.where(turned, bump.transpose(0, 2), bump)
        grid = torch.where(up, bumps, -bumps).reshape(n, channels, rows * side, columns * side)
        down, right = height - rows * side, width - columns * side
        grid = F.pad(grid, (right // 2, right - right // 2, down // 2, down - down // 2))
        return self.threat.project(x + grid, x)

    def moved(self, x_adv: Images, anchors: tuple[Images, ...], share: float, draws: Numbers) -> Images:
        (x,) = anchors
        height, width = x.shape[2:]
        # Odd, as in the paper, for a pyramid to have a top.
        side = max(round(math.sqrt(share * height * width)), 3)
        side = min(side + 1 - side % 2, height, width)
        to_fill = _window(x, _anywhere(draws[:, 0], height, side), _anywhere(draws[:, 1], width, side), side)
        change = (x_adv - x).flatten(2)
        mass = change.abs().pow(self.order)
        to_empty = _window(x, *_around(mass.sum(dim=1), draws[:, 2], draws[:, 3], height, width, side), side)

        full = (self.threat.eps * (1 - SLACK)) ** self.order
        unspent = (full - mass.sum(dim=(1, 2))) / x.shape[1]
        before, kept = change.gather(2, to_fill), mass.gather(2, to_fill).sum(dim=2, keepdim=True)
        # What both windows hold counts once.
        taken = mass.scatter_(2, to_fill, 0).gather(2, to_empty).sum(dim=2, keepdim=True)
        budget = self.overshoot * (kept + taken + unspent[:, None, None]).clamp(min=0)

        bump = _bump(side, self.order, self.decay, x.device)
        bump = torch.where(draws[:, 4, None, None] < 0.5, bump, bump.T).flatten(1)[:, None]
        direction = before / kept.pow(1 / self.order).clamp(min=1e-12)
        direction = direction + torch.where(draws[:, N_PLACES:, None] < 0.5, bump, -bump)
        after = self._grown(direction, budget, x.flatten(2).gather(2, to_fill))
        change = change.scatter_(2, to_empty, 0).scatter_(2, to_fill, after)
        if self.overshoot > 1:
            change = _shrunk(change.flatten(1), full)
        return (x + change.view_as(x)).clamp_(0, 1)

    def _grown(self, direction: Values, budget: Float32[Tensor, "batch channel 1"], x: Values) -> Values:
        """The multiple of the direction, clipped to the box around x, that has this mass; all of the room if it must.

        With u the `order`-th power of the factor, the mass is concave and piecewise linear in u, so that Newton's steps
        come up to the root from below.
        """
        size = direction.abs().pow(self.order)
        room = torch.where(direction > 0, 1 - x, x).pow(self.order)
        u = budget / size.sum(dim=2, keepdim=True).clamp(min=1e-30)
        for _ in range(NEWTON_STEPS):
            stuck = u * size >= room
            rest = budget - torch.where(stuck, room, 0).sum(dim=2, keepdim=True)
            # Never back to nothing where all is stuck.
            u = torch.maximum(u, rest / torch.where(stuck, 0, size).sum(dim=2, keepdim=True).clamp(min=1e-30))
        return torch.copysign(torch.minimum(u * size, room).pow(1 / self.order), direction)


def _shrunk(change: Pixels, radius: float) -> Pixels:
    """All values brought nearer to 0 by the same amount, for an l1 norm of `radius`: the projection onto that ball.

    `Threat.project` finds the amount by sorting, and takes longer than a forward pass of a small network. The norm is
    convex in the amount, so that Newton's steps come up to it from below; the scale makes up for what they leave.
    """
    size = change.abs()
    left, amount = size, torch.zeros_like(size[:, :1])
    for _ in range(NEWTON_STEPS):
        over = (left.sum(dim=1, keepdim=True) - radius).clamp(min=0)
        # The sum of the signs counts what is left, in a third of the time that counting takes.
        amount = amount + over / left.sign().sum(dim=1, keepdim=True).clamp(min=1)
        left = (size - amount).clamp(min=0)
    return torch.copysign(left, change) * (radius / left.sum(dim=1, keepdim=True).clamp(min=radius))


def _anywhere(number: Number, length: int, side: int) -> Int64[Tensor, "batch"]:
    """Where a window of that side begins along this length: each place from the first to the last alike."""
    return (number * (length - side + 1)).long()


def _around(
    mass: Pixels, which: Number, place: Number, height: int, width: int, side: int
) -> tuple[Int64[Tensor, "batch"], Int64[Tensor, "batch"]]:
    """Top and left of a window around a pixel drawn by its share of the mass, which is anywhere in the window."""
    total = mass.cumsum(dim=1)
    pixel = torch.searchsorted(total, which[:, None] * total[:, -1:], right=True).squeeze(1)
    # Without any mass there is no such pixel.
    pixel = pixel.clamp(max=height * width - 1)
    inside = (place * side**2).long()
    top, left = pixel // width - inside // side, pixel % width - inside % side
    return top.clamp(0, height - side), left.clamp(0, width - side)


def _window(x: Images, top: Int64[Tensor, "batch"], left: Int64[Tensor, "batch"], side: int) -> Windows:
    """The positions of a square window among the pixels of each image, the same ones for every channel."""
    steps = torch.arange(side, device=x.device)
    rows, columns = top[:, None] + steps, left[:, None] + steps
    return (rows[:, :, None] * x.shape[3] + columns[:, None, :]).flatten(1)[:, None].expand(-1, x.shape[1], -1)


@lru_cache(maxsize=64)
def _bump(side: int, order: int, decay: int, device: torch.device) -> Float32[Tensor, "side side"]:
    """A pyramid in the upper half of a window and its negative in the lower one, with an l`order` norm of 1 each.

    The ring at distance k around the top is the sum of (j + 1)^-`decay` over j from k to half the side. The whole has
    norm 1 as well; with `order` and `decay` 2 it is the paper's eta.
    """
    rings = torch.arange(1, side // 2 + 2, dtype=torch.float64).pow(-decay).flip(0).cumsum(dim=0).flip(0)
    columns = (torch.arange(side) - side // 2).abs()
    halves = []
    for height in (side // 2, side - side // 2):
        rows = (torch.arange(height) - height // 2).abs()
        half = rings[torch.maximum(rows[:, None], columns)]
        halves.append(half / half.norm(p=order))
    whole = torch.cat([halves[0], -halves[1]])
    return (whole / whole.norm(p=order)).float().to(device)
