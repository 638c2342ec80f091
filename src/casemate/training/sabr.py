"""SABR: small boxes around adversarial points (Mueller et al. 2023, arXiv:2210.04871)."""

from dataclasses import dataclass, replace

from torch import nn

from casemate.bounds import box_of, least_margins, propagate
from casemate.losses import Labels
from casemate.threat import Images
from casemate.training.certified import DOMAIN, Certified, Loss, attacked, worst_case_loss
from casemate.training.objective import Ball, Step


@dataclass(frozen=True)
class Sabr(Certified):
    """The worst case by intervals over a box of radius `box` eps inside the ball, where PGD finds the loss high.

    PGD has (1 - `box`) eps to go, so that the box around its last iterate is inside the ball (section 3). At 1 it is
    interval training with kappa 0; towards 0, adversarial training. Its loss is not a bound over the whole ball.
    """

    box: float = 0.4
    n_steps: int = 8
    step_size: float = 0.5

    def bounded(self, model: nn.Module, x: Images, y: Labels, threat: Ball, grown: float, step: Step) -> Loss:
        small, centre = replace(threat, eps=threat.eps * self.box), x
        if self.box < 1:
            rest = replace(threat, eps=threat.eps * (1 - self.box))
            centre = attacked(step, x, y, rest, n_steps=self.n_steps, step_size=self.step_size)
        graph = self.graph(model, x, step)
        values = propagate(graph, DOMAIN, box_of(small, centre, DOMAIN))
        return Loss(worst_case_loss(least_margins(graph, None, values, y)), graph, values)
