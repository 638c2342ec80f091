"""The smallest radius at which an attack breaks each image, by bisection: a minimum-norm search out of any attack."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from casemate import rng
from casemate.attacks.standing import Attack, excess
from casemate.classifier import check_batch
from casemate.errors import CasemateError
from casemate.gradients import Classifier, engine_for
from casemate.losses import Labels
from casemate.threat import L1, L2, Distances, Images, Linf, with_eps


@dataclass(frozen=True)
class Smallest:
    """The nearest misclassified point that the attack found for each image.

    `x_adv` float32 [N, C, H, W] in [0, 1]; `distance` float64 [N] is how far it is, in the norm of the threat model: 0
    where the image is misclassified as it is, inf where the attack failed at the largest radius, and `x_adv` is then
    the image itself.
    """

    x_adv: Images
    distance: Distances


def smallest(
    model: Classifier,
    x: Images,
    y: Labels,
    threat: Linf | L2 | L1,
    attack: Attack,
    *,
    keys: rng.Keys,
    tolerance: float,
) -> Smallest:
    """Bisect, image by image, for the smallest radius at which `attack` breaks it; the largest tried is `threat.eps`.

    The radii tried are whole multiples of the largest step that divides `threat.eps` evenly and is at most `tolerance`.
    The largest comes first; then, for each image, one between the largest radius at which its attack failed and the
    nearest misclassified point it found, which may be well inside the radius of the time.

    Guaranteed: a finite distance is that of a point which the classifier itself, in full precision, gets wrong, and
    either it is at most `tolerance`, or the attack also failed at some radius of at least `distance - tolerance`. Not
    guaranteed: that there is no nearer point; an attack may fail at one radius and succeed at a smaller one.

    An image that has its answer leaves, and the draws of an image depend on its key and the radius alone. Cost: at most
    log2(threat.eps / tolerance) + 2 runs of the attack for each image, those at one radius together. Raises
    `CasemateError` for a tolerance that is not in (0, threat.eps].
    """
    if not 0 < tolerance <= threat.eps:
        raise CasemateError(f"the tolerance of a bisection up to {threat} is in (0, {threat.eps:g}], not {tolerance}")
    engine = engine_for(model)
    logits = engine.logits(x, keys=keys)
    check_batch(x, y, logits.shape[1])
    right = excess(logits, y) <= 0
    best = x.clone()
    distance: Distances = torch.zeros_like(right, dtype=torch.float64).masked_fill_(right, torch.inf)
    # Radii are counted in steps. The attack failed at `low`; `high` is the first at or beyond the nearest wrong point.
    n_radii = math.ceil(threat.eps / tolerance)
    low = torch.zeros_like(y)
    high = low.masked_fill(right, n_radii + 1)
    while len(at := (high - low > 1).nonzero().squeeze(1)):
        middle = torch.where(high[at] > n_radii, n_radii, _roundest(low[at], high[at]))
        # The roundest of all come first: the images that go on from there meet again at the next, in larger batches.
        power = middle & -middle
        for radius in middle[power == power.max()].unique().tolist():
            tried = at[middle == radius]
            ball = with_eps(threat, threat.eps * (radius / n_radii))
            draws = rng.fold(keys[tried], "radius", radius)
            x_adv = attack(engine, x[tried], y[tried], ball, keys=draws)
            wrong = excess(engine.logits(x_adv, keys=keys[tried]), y[tried]) > 0
            broken = wrong & ball.contains(x_adv, x[tried])
            low[tried[~broken]] = radius
            fell = tried[broken]
            best[fell] = x_adv[broken]
            distance[fell] = threat.measure(x_adv[broken], x[fell])
            # Rounding may put a point a little beyond its ball: `high` must shrink all the same.
            high[fell] = (distance[fell] / threat.eps * n_radii).ceil().long().clamp(max=radius)
    return Smallest(best, distance)


def _roundest(low: Int64[Tensor, "some"], high: Int64[Tensor, "some"]) -> Int64[Tensor, "some"]:
    """The number strictly between that most powers of two divide; there is one where high > low + 1 >= 1.

    All others between are less round, so that taking it halves as surely as the middle would, and images whose limits
    differ a little choose the same.
    """
    last = high - 1
    # The highest bit in which the two ends differ stays, and those below it are cleared.
    bits = torch.frexp((low ^ last).double()).exponent - 1
    return (last >> bits) << bits
