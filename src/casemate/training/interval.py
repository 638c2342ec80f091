"""Interval bound propagation in training (Gowal et al. 2018, arXiv:1810.12715)."""

from dataclasses import dataclass

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
        kappa = 1 - grown * (1 - self.kappa)
        clean, graph = self.clean(model, x, y, step, kappa)
        values = propagate(graph, DOMAIN, box_of(threat, x, DOMAIN))
        worst = worst_case_loss(least_margins(graph, None, values, y))
        return Loss(clean + (1 - kappa) * worst, graph, values)
