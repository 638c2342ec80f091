"""Single-step adversarial training: FGSM-RS (Wong et al. 2020) and N-FGSM (de Jorge et al. 2022)."""

from dataclasses import dataclass, replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from casemate import rng
from casemate.losses import Labels, cross_entropy
from casemate.threat import Images
from casemate.training.objective import Ball, Step, warmed


@dataclass(frozen=True)
class Fast:
    """Cross-entropy at one gradient step from a random point: about the cost of two natural steps.

    `rs`: start uniform in the ball, step 1.25 eps, projected back ("Fast is better than free", algorithm 3).
    `n-fgsm`: start uniform in the ball of 2 eps, step eps, not projected back to eps (algorithm 1), which resists
    catastrophic overfitting at larger eps. `step_size` overrides the step, in the units of eps.
    """

    threat: Ball
    method: Literal["rs", "n-fgsm"] = "rs"
    step_size: float | None = None
    warm_up: float = 0.0
    label_smoothing: float = 0.0

    def __call__(self, model: nn.Module, x: Images, y: Labels, *, step: Step) -> Tensor:
        threat = warmed(self.threat, self.warm_up, step.progress)
        default = 1.25 if self.method == "rs" else 1.0
        size = threat.eps * (default if self.step_size is None else self.step_size / self.threat.eps)
        noise_ball = threat if self.method == "rs" else replace(threat, eps=2 * threat.eps)
        start = noise_ball.sample(x, rng.fold(step.keys, "start"))
        gradient, _ = step.frozen().gradient(start, y, cross_entropy, keys=step.keys)
        x_adv = start + size * threat.ascent(gradient, start)
        x_adv = threat.project(x_adv, x) if self.method == "rs" else x_adv.clamp(0, 1)
        return F.cross_entropy(model(x_adv), y, label_smoothing=self.label_smoothing)
