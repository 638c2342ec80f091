"""MTL-IBP (De Palma et al. 2024, "Expressive losses for verified robustness via convex combinations").

arXiv:2305.13991.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from casemate.bounds import box_of, least_margins, propagate
from casemate.losses import Labels
from casemate.threat import Images
from casemate.training.certified import DOMAIN, Certified, Loss, attacked, worst_case_loss
from casemate.training.objective import Ball, Step


@dataclass(frozen=True)
class MtlIBP(Certified):
    """alpha CE(worst case by intervals, y) + (1 - alpha) CE(f(x_adv), y) (section 4.2).

    The model sees clean and adversarial images in one batch, whose statistics the intervals use.
    """

    alpha: float = 0.5
    n_steps: int = 1
    step_size: float = 2.0

    def bounded(self, model: nn.Module, x: Images, y: Labels, threat: Ball, grown: float, step: Step) -> Loss:
        x_adv = attacked(step, x, y, threat, n_steps=self.n_steps, step_size=self.step_size)
        logits, graph = self.called(model, torch.cat([x, x_adv]), step)
        adversarial = F.cross_entropy(logits[len(x) :], y)
        values = propagate(graph, DOMAIN, box_of(threat, x, DOMAIN))
        worst = worst_case_loss(least_margins(graph, None, values, y))
        return Loss(self.alpha * worst + (1 - self.alpha) * adversarial, graph, values)
