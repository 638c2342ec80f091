"""Somewhere to go where the gradient says nothing."""

from casemate import rng
from casemate.threat import Images


def or_random(gradient: Images, keys: rng.Keys) -> Images:
    """The gradient [N, C, H, W], and for each image where it is zero a normal random direction from its key.

    A search that follows the gradient alone would stay at such a point for good, since sign(0) = 0.
    """
    flat = gradient.flatten(1).abs().amax(dim=1) == 0
    if flat.any():
        gradient = gradient.clone()
        gradient[flat] = rng.normal(rng.fold(keys[flat], "flat"), gradient.shape[1:])
    return gradient
