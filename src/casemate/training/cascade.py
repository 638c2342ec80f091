"""Cascade adversarial training (Na, Ko and Mukhopadhyay 2018, arXiv:1708.02582): an earlier network's examples too."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casemate import rng
from casemate.attacks import maximise
from casemate.gradients import Engine
from casemate.losses import Labels, cross_entropy
from casemate.threat import Images
from casemate.training.objective import Ball, Step


@dataclass(frozen=True, eq=False)
class CascadeTraining:
    """Clean images, one-step examples of the network itself and iterative examples of an `earlier` one (section 3).

    Of a batch the first half is trained on as it is. The second half is attacked: every other image by `n_steps` steps
    on the `earlier` network, the rest by one step of eps on this one; without an `earlier` network, which is how that
    one is trained, by one step all. The loss is the mean cross-entropy in which an adversarial image counts
    `adversarial_weight`, plus `similarity` times the sum of |z(x_adv) - z(x)|^2 over the attacked images, with the
    logits z for the embedding. The iterative examples are made when they are needed rather than stored beforehand,
    and steps follow the gradient of the true label's loss where the paper's step to the least likely class.
    """

    threat: Ball
    earlier: Engine | None = None
    n_steps: int = 10
    adversarial_weight: float = 0.3
    similarity: float = 1e-4

    def __call__(self, model: nn.Module, x: Images, y: Labels, *, step: Step) -> Tensor:
        n_clean = len(x) - len(x) // 2
        x_adv = self.attacked(x[n_clean:], y[n_clean:], step.keys[n_clean:], step)
        logits = model(torch.cat([x, x_adv]))
        clean, beside, adversarial = logits.split([n_clean, len(x_adv), len(x_adv)])
        loss = F.cross_entropy(clean, y[:n_clean], reduction="sum")
        loss = loss + self.adversarial_weight * F.cross_entropy(adversarial, y[n_clean:], reduction="sum")
        apart = (adversarial - beside).square().sum()
        return loss / (n_clean + self.adversarial_weight * len(x_adv)) + self.similarity * apart

    def attacked(self, x: Images, y: Labels, keys: rng.Keys, step: Step) -> Images:
        """Images 0, 2, 4, ... attacked on the earlier network where there is one, the others on that being trained."""
        x_adv = x.clone()
        own = slice(None) if self.earlier is None else slice(1, None, 2)
        x_adv[own] = self._ascend(step.frozen(), x[own], y[own], keys[own], 1)
        if self.earlier is not None:
            self.earlier.model.to(x.device)
            x_adv[::2] = self._ascend(self.earlier, x[::2], y[::2], keys[::2], self.n_steps)
        return x_adv

    def _ascend(self, engine: Engine, x: Images, y: Labels, keys: rng.Keys, n_steps: int) -> Images:
        step_size = self.threat.eps * (1.0 if n_steps == 1 else 2.5 / n_steps)
        return maximise(
            engine, x, y, self.threat, keys=keys, start=x, n_steps=n_steps, step_size=step_size, loss=cross_entropy
        )
