"""CROWN-IBP (Zhang et al. 2020, "Towards stable and efficient training of verifiably robust neural networks").

arXiv:1906.06316.
"""

from dataclasses import dataclass

from torch import nn

from casemate.bounds import LinearBounds, box_of, least_margins
from casemate.losses import Labels
from casemate.threat import Images
from casemate.training.certified import DOMAIN, Certified, Loss, worst_case_loss
from casemate.training.objective import Ball, Step


@dataclass(frozen=True)
class CrownIBP(Certified):
    """Interval training whose margins are beta CROWN-IBP + (1 - beta) IBP (equation 9).

    CROWN-IBP is one pass back for each rival between the intervals of the layers, tight for a network that is not yet
    trained to be bounded; beta falls from 1 to its value, and kappa likewise, as eps grows.
    """

    kappa: float = 0.0
    beta: float = 0.0

    def bounded(self, model: nn.Module, x: Images, y: Labels, threat: Ball, grown: float, step: Step) -> Loss:
        kappa, beta = (1 - grown * (1 - last) for last in (self.kappa, self.beta))
        clean, graph = self.clean(model, x, y, step, kappa)
        bounds = LinearBounds(graph, threat, x, box_of(threat, x, DOMAIN), DOMAIN, tighten=False)
        margins = least_margins(graph, None, bounds.boxes, y)
        if beta:
            margins = beta * bounds.margins(y) + (1 - beta) * margins
        worst = worst_case_loss(margins)
        return Loss(clean + (1 - kappa) * worst, graph, bounds.boxes)
