"""Ascent along gradients estimated from scores alone, where a classifier's own is missing, wrong or useless."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from casemate import rng
from casemate.attacks.nearest import Index
from casemate.attacks.standing import Standing, excess
from casemate.errors import CasemateError
from casemate.gradients import Classifier, Engine
from casemate.losses import Labels, Loss, Values, by_name
from casemate.threat import Images, Threat

# Pairs of one image in one question to the classifier, and the pixel values of all points held at a time.
PAIRS_AT_ONCE = 64
VALUES_AT_ONCE = 2**22

# Draws directions [batch, *shape] from keys [batch]; every value is symmetric around 0, of variance 1, independent.
Directions = Callable[[rng.Keys, Sequence[int]], Float32[Tensor, "batch ..."]]
# Where to go, before the projection, from the points of the images at these positions with these gradients.
Move = Callable[[Images, Images, Index], Images]


@dataclass(frozen=True)
class Estimate:
    """`gradient` [n, C, H, W] of the loss; of the points asked about inside the threat model the least right one for
    each image, `seen` [n, C, H, W], and its `excess` [n], -inf where no point was inside."""

    gradient: Images
    seen: Images
    excess: Values


def estimate(
    engine: Engine,
    x_adv: Images,
    x: Images,
    y: Labels,
    threat: Threat,
    loss: Loss,
    *,
    directions: Directions,
    sigma: float,
    n_samples: int,
    keys: rng.Keys,
) -> Estimate:
    """The gradient of `loss` at each of `x_adv` [n, C, H, W], from the logits at `n_samples` points around it.

    With directions u_s, s = 1 ... S = n_samples / 2, it is 1 / (2 sigma S) sum_s [l(x + sigma u_s) - l(x - sigma u_s)]
    u_s (antithetic sampling; Ilyas et al. 2018, algorithm 1).

    A classifier is defined on images, and a defence may round, clip or refuse what is none, so each point is clipped to
    the box; a pixel at a face of the box then moves in one of the two points only, which would halve its slope, so the
    slope is divided by the share of the moves along its u that the box left. (The authors of SPSA, NES and the attack
    on k-WTA ask outside the box; foolbox and ART can clip, and leave the slopes halved.)

    Guaranteed: where the loss is affine in the image between the points, the mean over draws is its gradient, at faces
    of the box too. With weights w the variance of the value at pixel i is about |w|^2 / S inside the box, so that
    directions agree with the gradient once S is of the order of the number of pixels. `engine.logits` answers: the
    classifier itself, no gradient asked. Each pair of points has a draw of a randomised classifier of its own, the same
    at both ends, so the mean is over its draws as well (EOT). Draws come from `keys` alone.

    Cost: n_samples forward passes for each image; memory for `VALUES_AT_ONCE` pixel values, at least one image's
    `PAIRS_AT_ONCE` pairs.
    """
    images_at_once = max(1, VALUES_AT_ONCE // (2 * PAIRS_AT_ONCE * math.prod(x.shape[1:])))
    parts = [
        _estimate(engine, x_adv[part], x[part], y[part], threat, loss, directions, sigma, n_samples // 2, keys[part])
        for part in torch.arange(len(x), device=x.device).split(images_at_once)
    ]
    gradients, seen, found = zip(*parts, strict=True)
    return Estimate(torch.cat(gradients), torch.cat(seen), torch.cat(found))


def climb(
    model: Classifier,
    x: Images,
    y: Labels,
    threat: Threat,
    *,
    keys: rng.Keys,
    start: Images,
    loss: Loss,
    directions: Directions,
    sigma: float,
    n_samples: Sequence[int],
    move: Move,
) -> Images:
    """A step along the estimated gradient for each entry of `n_samples`, projected, from `start` [N, C, H, W].

    Returns for each image the first point found that the classifier gets wrong, else the one of largest margin loss,
    among the iterates and the points asked about on the way that are inside the threat model. An image leaves after the
    step in which it is broken. Cost: one forward pass for the clean check, and sum(n_samples) + len(n_samples) for an
    image that resists.
    """
    standing = Standing(model, x, y, keys=keys)
    x_adv = start.clone()
    for step, n in enumerate(n_samples):
        at = standing.index
        if not len(at):
            break
        found = estimate(
            standing.engine, x_adv[at], x[at], y[at], threat, loss,
            directions=directions, sigma=sigma, n_samples=n, keys=rng.fold(keys[at], step),
        )  # fmt: skip
        # `contains` lets through what rounding puts a little beyond eps.
        standing.record(threat.project(found.seen, x[at]), found.excess)
        x_adv[at] = threat.project(move(x_adv[at], found.gradient, at), x[at])
        standing.record_exactly(x_adv[standing.index])
    return standing.best


def check_settings(
    who: str, *, n_steps: int, n_samples: Sequence[int], sigma: float, step_size: float | None, loss: str
) -> None:
    """Refuse what makes no search, with a `CasemateError` that names the attack `who`."""
    if n_steps < 1:
        raise CasemateError(f"{who} needs at least 1 step, not {n_steps}")
    for n in n_samples:
        if n < 2 or n % 2:
            raise CasemateError(f"{who} asks about pairs of points, so n_samples is even and at least 2, not {n}")
    if not 0 < sigma <= 1:
        raise CasemateError(f"sigma of {who} is a distance between pixel values, in (0, 1], not {sigma}")
    if step_size is not None and not step_size > 0:
        raise CasemateError(f"the step size of {who} must be positive, not {step_size}")
    by_name(loss)


def _estimate(
    engine: Engine,
    x_adv: Images,
    x: Images,
    y: Labels,
    threat: Threat,
    loss: Loss,
    directions: Directions,
    sigma: float,
    n_pairs: int,
    keys: rng.Keys,
) -> tuple[Images, Images, Values]:
    n = len(x)
    slopes, lengths, left = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    seen, most = x_adv, torch.full_like(x[:, 0, 0, 0], -torch.inf)
    for start in range(0, n_pairs, PAIRS_AT_ONCE):
        pairs = torch.arange(start, min(start + PAIRS_AT_ONCE, n_pairs), device=x.device)
        drawn = directions(rng.fold(keys, "directions", start), (len(pairs), *x.shape[1:]))
        move = sigma * drawn
        points = torch.stack([x_adv[:, None] + move, x_adv[:, None] - move], dim=1).clamp_(0, 1)
        moved = (points[:, 0] - points[:, 1]) / (2 * sigma)
        points = points.flatten(1, 2)
        owner = torch.arange(n, device=x.device).repeat_interleave(points.shape[1])
        # The pair's number is added before the key is mixed, as the generator itself counts.
        draws = rng.fold((keys[:, None, None] + pairs).expand(-1, 2, -1).flatten(), "draw")
        logits = engine.logits(points.flatten(0, 1), keys=draws)
        plus, minus = loss(logits, y[owner]).view(n, 2, -1).unbind(dim=1)
        slopes += (((plus - minus) / (2 * sigma))[:, :, None, None, None] * drawn).sum(dim=1)
        lengths += drawn.square().sum(dim=1)
        left += (moved * drawn).sum(dim=1)

        inside = threat.contains(points.flatten(0, 1), x[owner])
        found, which = excess(logits, y[owner]).masked_fill(~inside, -torch.inf).view(n, -1).max(dim=1)
        better = (found > most).view(-1, 1, 1, 1)
        seen = torch.where(better, points[torch.arange(n, device=x.device), which], seen)
        most = torch.maximum(most, found)
    # Where rounding left nothing of the moves there is no slope to know.
    share = torch.where(left > 0, left / lengths, torch.inf)
    return slopes / n_pairs / share, seen, most
