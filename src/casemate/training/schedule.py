"""Learning-rate schedules: the share of the peak rate at a given progress of training, both in [0, 1]."""

import math
from typing import Literal

Shape = Literal["constant", "linear", "cosine", "steps", "cyclic", "flat-linear", "late-steps", "early-steps"]


def rate(shape: Shape, progress: float, warm_up: float = 0.0) -> float:
    """The share of the peak learning rate, after a linear rise from 0 over the first `warm_up` share of training.

    constant: 1. linear: falls to 0 at the end. cosine: half a cosine to 0. steps: 1, 0.1 from one half, 0.01 from
    three quarters (Madry et al. 2018, CIFAR-10). cyclic: rises to 1 at 0.4 and falls to 0 (Wong et al. 2020, MNIST;
    it has its own rise). flat-linear: 1 for the first half, then linearly to 0. late-steps: 1, 0.2
    from five sevenths, 0.04 from six (Shi et al. 2021, 50 and 60 of 70 epochs). early-steps: 1, 0.1 from a quarter,
    0.01 from five twelfths (Gowal et al. 2018, 15,000 and 25,000 of 60,000 steps).
    """
    if progress < warm_up:
        return progress / warm_up
    match shape:
        case "constant":
            return 1.0
        case "linear":
            return 1 - progress
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "steps":
            return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01
        case "cyclic":
            return progress / 0.4 if progress < 0.4 else (1 - progress) / 0.6
        case "flat-linear":
            return 1.0 if progress < 0.5 else 2 * (1 - progress)
        case "late-steps":
            return 1.0 if progress < 5 / 7 else 0.2 if progress < 6 / 7 else 0.04
        case "early-steps":
            return 1.0 if progress < 1 / 4 else 0.1 if progress < 5 / 12 else 0.01
