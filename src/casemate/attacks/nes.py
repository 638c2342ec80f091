"""NES (Ilyas et al. 2018, arXiv:1804.08598): gradient steps by natural evolution strategies, from scores alone."""

import math
from dataclasses import dataclass

from casemate import rng
from casemate.attacks.estimates import check_settings, climb
from casemate.errors import CasemateError
from casemate.gradients import Classifier
from casemate.losses import Labels, by_name
from casemate.threat import Images, Threat

Schedule = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class NES:
    """x_{t+1} = project(x_t + step_size * ascent(estimate of the gradient at x_t)), from the image itself.

    The estimate is that of `casemate.attacks.estimates.estimate` from `n_samples` points in Gaussian directions: that
    of the loss averaged over Gaussian noise of standard deviation `sigma`, which has one where the loss has none.
    `step_size` is in the units of eps; None is eps / sqrt(n_steps), with which a random walk, for that is what steps
    along poor estimates nearly are, crosses the ball once. `loss` is a name in `casemate.losses`.

    The settings of the authors' code for linf 0.05 on ImageNet are `NES(n_steps=200, step_size=0.01,
    loss="cross-entropy")`, 10,000 queries; their momentum and their search for step sizes are left out.

    `n_samples` may grow on the way: ((0, 100), (20, 1000)) means 100 in the first 20 steps and 1,000 from then on. The
    evolution-strategy attack on discontinuous classifiers such as k-WTA (Tramer et al. 2020, arXiv:2002.08347, and the
    code published with it) is `DISCONTINUOUS`, below: `sigma` spans the jumps, and as the images that are left get
    harder, more samples make better gradients.

    Cost for an image that resists: n_steps + 1 forward passes and n_samples in every step; no gradient.
    """

    n_steps: int = 200
    n_samples: int | Schedule = 50
    sigma: float = 0.001
    step_size: float | None = None
    loss: str = "margin"

    def __post_init__(self) -> None:
        starts = [first for first, _ in self._schedule]
        if starts[:1] != [0] or starts != sorted(set(starts)):
            raise CasemateError(f"a schedule is ((first step, samples), ...) from step 0 on, not {self.n_samples}")
        check_settings(
            "NES", n_steps=self.n_steps, n_samples=[n for _, n in self._schedule],
            sigma=self.sigma, step_size=self.step_size, loss=self.loss,
        )  # fmt: skip

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        step_size = self.step_size_for(threat)
        return climb(
            model,
            x,
            y,
            threat,
            keys=keys,
            start=x,
            loss=by_name(self.loss),
            directions=rng.normal,
            sigma=self.sigma,
            n_samples=[self.n_samples_at(step) for step in range(self.n_steps)],
            move=lambda x_adv, gradient, at: x_adv + step_size * threat.ascent(gradient, x_adv),
        )

    def step_size_for(self, threat: Threat) -> float:
        return threat.eps / math.sqrt(self.n_steps) if self.step_size is None else self.step_size

    def n_samples_at(self, step: int) -> int:
        """The points asked about in step 0, 1, ..."""
        return max((first, n) for first, n in self._schedule if first <= step)[1]

    @property
    def _schedule(self) -> Schedule:
        return ((0, self.n_samples),) if isinstance(self.n_samples, int) else self.n_samples


# 1,222,101 forward passes for an image that resists.
DISCONTINUOUS = NES(n_steps=100, n_samples=((0, 100), (20, 1000), (40, 20000)), sigma=8 / 255, step_size=0.01)
