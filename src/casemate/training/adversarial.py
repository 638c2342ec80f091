"""PGD adversarial training: min over weights of the mean of max over the ball (Madry et al. 2018, eq. 2.1)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from casemate import rng
from casemate.attacks import maximise
from casemate.losses import Labels, by_name
from casemate.threat import Images
from casemate.training.objective import Ball, Step, warmed


@dataclass(frozen=True)
class Adversarial:
    """Mean cross-entropy on the adversarial batch alone, which is the last of `n_steps` PGD iterates.

    `step_size` is in the units of eps; None is 2.5 eps / n_steps. `n_steps=1, step_size=eps, random_start=False` is
    training on FGSM examples. By Danskin's theorem (section 3) the gradient at an inner maximiser is a descent
    direction of the saddle point's value, so no gradient flows through the attack. `warm_up` is the share of training
    over which eps grows from 0; the step size grows with it.
    """

    threat: Ball
    n_steps: int = 40
    step_size: float | None = None
    random_start: bool = True
    warm_up: float = 0.0
    label_smoothing: float = 0.0
    loss: str = "cross-entropy"

    def __call__(self, model: nn.Module, x: Images, y: Labels, *, step: Step) -> Tensor:
        threat = warmed(self.threat, self.warm_up, step.progress)
        relative = 2.5 / self.n_steps if self.step_size is None else self.step_size / self.threat.eps
        x_adv = maximise(
            step.frozen(),
            x,
            y,
            threat,
            keys=step.keys,
            start=threat.sample(x, rng.fold(step.keys, "start")) if self.random_start else x,
            n_steps=self.n_steps,
            step_size=relative * threat.eps,
            loss=by_name(self.loss),
        )
        return F.cross_entropy(model(x_adv), y, label_smoothing=self.label_smoothing)
