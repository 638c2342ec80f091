"""What a goal is given: a batch, and the network as a graph with the statistics of that batch."""

from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from casemate import rng
from casemate.attacks import maximise
from casemate.bounds import Interval, Points, box_of, least_margins, propagate
from casemate.bounds.graph import Graph
from casemate.bounds.interpreter import Domain
from casemate.losses import Labels, cross_entropy
from casemate.threat import Images
from casemate.training.certified import DOMAIN, worst_case_loss
from casemate.training.objective import Ball, Step


@dataclass(frozen=True, eq=False)
class Batch:
    """`logits` are those of the images x themselves; `epoch` counts from 0, in fractions, and is what schedules see.

    `threat` is that of the recipe: a width of None is its eps. `keys` differ for each goal of one formula, whose place
    in it is `path`.
    """

    graph: Graph
    x: Images
    y: Labels
    logits: Tensor
    threat: Ball
    step: Step
    epoch: float
    keys: rng.Keys
    path: str = ""

    def ball(self, eps: float) -> Ball | None:
        """The threat model at another eps; None at 0, where it is the image alone."""
        return replace(self.threat, eps=eps) if eps > 0 else None

    def clean(self) -> Tensor:
        """The cross-entropy of the images."""
        return F.cross_entropy(self.logits, self.y)

    def at(self, points: Images) -> Tensor:
        """The cross-entropy of other images, with the statistics of the batch."""
        return F.cross_entropy(propagate(self.graph, Points(), points)[-1], self.y)

    def over(self, domain: Domain[Any], value: Any) -> Tensor:
        """The cross-entropy of the worst-case logits over an element of `domain` (DiffAI v3's cross loss)."""
        return worst_case_loss(least_margins(self.graph, None, propagate(self.graph, domain, value), self.y))

    def box(self, centre: Images, eps: float) -> Interval:
        """All within eps of `centre`, inside [0, 1]; DiffAI itself does not clip."""
        ball = self.ball(eps)
        return DOMAIN.between(centre, centre) if ball is None else box_of(ball, centre, DOMAIN)

    def attacked(
        self, eps: float, n_steps: int, step_size: float, *, random_start: bool, momentum: float = 0.0
    ) -> Images:
        """Sign gradients against the weights of this step, inside [0, 1]; `step_size` in units of images."""
        ball = self.ball(eps)
        if ball is None:
            return self.x
        start = ball.sample(self.x, rng.fold(self.keys, "start")) if random_start else self.x
        return maximise(
            self.step.frozen(),
            self.x,
            self.y,
            ball,
            keys=self.keys,
            start=start,
            n_steps=n_steps,
            step_size=step_size,
            loss=cross_entropy,
            momentum=momentum,
        )

    def later(self, epochs: float) -> "Batch":
        """The same where `epochs` have been before."""
        return replace(self, epoch=self.epoch - epochs)

    def within(self, name: str) -> "Batch":
        """The same for a goal inside of another, with draws of its own."""
        return replace(self, keys=rng.fold(self.keys, name), path=f"{self.path}/{name}")
