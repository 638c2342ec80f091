"""TRADES (Zhang et al. 2019): clean cross-entropy plus beta times the divergence between clean and attacked answers."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casemate import rng
from casemate.attacks import maximise
from casemate.losses import Labels, divergence
from casemate.threat import Images
from casemate.training.objective import Ball, Step, warmed


@dataclass(frozen=True)
class Trades:
    """CE(f(x), y) + beta KL(f(x) || f(x')), x' the maximiser of that divergence (equation 5).

    The search starts at x plus a normal perturbation of standard deviation 0.001, as the authors' code does, since
    the divergence has zero gradient at x itself. Both passes of the update share one call of the model.
    """

    threat: Ball
    beta: float = 6.0
    n_steps: int = 10
    step_size: float | None = None
    warm_up: float = 0.0
    label_smoothing: float = 0.0

    def __call__(self, model: nn.Module, x: Images, y: Labels, *, step: Step) -> Tensor:
        threat = warmed(self.threat, self.warm_up, step.progress)
        relative = 2.5 / self.n_steps if self.step_size is None else self.step_size / self.threat.eps
        engine = step.frozen()
        clean = engine.logits(x, keys=step.keys).softmax(dim=1)
        x_adv = maximise(
            engine,
            x,
            y,
            threat,
            keys=step.keys,
            start=threat.project(x + 0.001 * rng.normal(rng.fold(step.keys, "start"), x.shape[1:]), x),
            n_steps=self.n_steps,
            step_size=relative * threat.eps,
            loss=divergence,
            target=clean,
        )
        logits, logits_adv = model(torch.cat([x, x_adv])).chunk(2)
        # Of logarithms on both sides: where a probability underflows to 0, the gradient of p log p would be NaN.
        p, p_adv = logits.log_softmax(dim=1), logits_adv.log_softmax(dim=1)
        robust = F.kl_div(p_adv, p, reduction="batchmean", log_target=True)
        return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing) + self.beta * robust
