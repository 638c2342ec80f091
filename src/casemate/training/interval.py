"""Interval bound propagation in training (Gowal et al. 2018, arXiv:1810.12715)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from casemate.bounds import box_of, least_margins, propagate
from casemate.losses import Labels
from casemate.threat import Images
from casemate.training.certified import DOMAIN, Certified, Loss, worst_case_loss
from casemate.training.objective import Ball, Step


@dataclass(frozen=True)
class IntervalTraining(Certified):
    """kappa CE(f(x), y) + (1 - kappa) CE(worst-case logits, y) (equation 12); kappa falls from 1 as eps grows."""

    kappa: float = 0.5

    def bounded(self, model: nn.Module, x: Images, y: Labels, threat: Ball, grown: float, step: Step) -> Loss:
        logits, graph = self.called(model, x, step)
        values = propagate(graph, DOMAIN, box_of(threat, x, DOMAIN))
        kappa = 1 - grown * (1 - self.kappa)
        worst = worst_case_loss(least_margins(graph, None, values, y))
        return Loss(kappa * F.cross_entropy(logits, y) + (1 - kappa) * worst, graph, values)
