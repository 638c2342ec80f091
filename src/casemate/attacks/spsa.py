"""SPSA (Uesato et al. 2018, arXiv:1802.05666): Adam on gradients estimated from scores alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor

from casemate import rng
from casemate.attacks.adam import Adam
from casemate.attacks.estimates import check_settings, climb
from casemate.errors import CasemateError
from casemate.gradients import Classifier
from casemate.losses import Labels, by_name
from casemate.threat import Images, Linf, Threat


@dataclass(frozen=True)
class SPSA:
    """Steps of Adam along an estimate of the gradient, each projected, from a random point of the threat model.

    The estimate is that of `casemate.attacks.estimates.estimate` from `n_samples` points, half of them a Rademacher
    direction times `sigma` away from the current point and the others opposite (simultaneous perturbation: Spall 1992).
    The paper's delta is `sigma` and its batch of n directions is 2 n samples here. The values are those of the authors'
    implementation in CleverHans: delta 0.01, 128 directions, Adam's learning rate `step_size` 0.01 in pixel values, and
    a random start: all moves of a value are of one size, and from an image of few levels they may all miss a jump.
    `loss` is a name in `casemate.losses`; the paper's is the margin.

    The threat model is `Linf`, as in the paper: the better the estimate, the more Adam's step is its sign alone, which
    leads past the best point of an l2 or l1 ball: with 1,000 samples on a linear model with heavy-tailed weights the
    loss grew by 85% of what was to be had in l2, by 92% with 128.

    Cost for an image that resists: n_steps (n_samples + 1) + 1 forward passes, 25,701 by default; no gradient.
    """

    n_steps: int = 100
    n_samples: int = 256
    sigma: float = 0.01
    step_size: float = 0.01
    loss: str = "margin"

    def __post_init__(self) -> None:
        check_settings(
            "SPSA", n_steps=self.n_steps, n_samples=[self.n_samples],
            sigma=self.sigma, step_size=self.step_size, loss=self.loss,
        )  # fmt: skip

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        if not isinstance(threat, Linf):
            raise CasemateError(f"SPSA searches in linf, so {threat} is not a threat model for it: use NES")
        adam = Adam(x)
        return climb(
            model,
            x,
            y,
            threat,
            keys=keys,
            start=threat.sample(x, rng.fold(keys, "start")),
            loss=by_name(self.loss),
            directions=rademacher,
            sigma=self.sigma,
            n_samples=[self.n_samples] * self.n_steps,
            move=lambda x_adv, gradient, at: x_adv + self.step_size * adam.direction(gradient, at),
        )


def rademacher(keys: rng.Keys, shape: Sequence[int]) -> Float32[Tensor, "batch ..."]:
    """Independent signs, -1 or 1 with equal probability, for each image, float32 [batch, *shape]."""
    return 1 - 2 * (rng.uniform(keys, shape) < 0.5).float()
