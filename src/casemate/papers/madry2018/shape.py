"""What a change of an image looks like, whatever its size."""

import math

from jaxtyping import Float64
from torch import Tensor

from casemate.threat import Images

PerImage = Float64[Tensor, "batch"]


def kappa(x_adv: Images, x: Images) -> PerImage:
    """|d|_2 / (|d|_inf sqrt(n)) of the change d of each image: 1 where all n values change alike, 1 / sqrt(n) for one.

    0.577 for uniform noise; NaN where nothing changed.
    """
    delta = (x_adv.double() - x.double()).flatten(1)
    return delta.norm(dim=1) / (delta.abs().amax(dim=1) * math.sqrt(delta.shape[1]))


def share(x_adv: Images, x: Images) -> PerImage:
    """The share of the pixels that changed, in any of their colours: the l0 norm over the number of pixels."""
    return (x_adv != x).any(dim=1).flatten(1).double().mean(dim=1)
