"""What objectives of certified training share: schedules, the graph with the statistics of a batch, regularisers.

The schedule and the regularisers are those of Shi et al. 2021, "Fast certified robust training with short warmup"
(arXiv:2103.17268), and Gowal et al. 2018 (arXiv:1810.12715), whose objective `interval` is.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casemate import rng
from casemate.attacks import maximise
from casemate.bounds import Interval, Intervals, Tracing
from casemate.bounds.graph import Graph
from casemate.bounds.merging import merged
from casemate.losses import Labels, cross_entropy
from casemate.threat import Images
from casemate.training.objective import Ball, Step
from casemate.training.regularisers import tightness_and_balance
from casemate.training.statistics import Statistics, normalises, recording

# Without rounding: a training minimises bounds, and proves nothing by them.
DOMAIN = Intervals()


@dataclass(frozen=True)
class Loss:
    """A loss, and the intervals of the nodes of `graph` that it was made from."""

    value: Tensor
    graph: Graph
    intervals: Sequence[Interval]


@dataclass(frozen=True)
class Traced:
    """What objectives over bounds remember of a network: its graph, traced once."""

    _tracings: "weakref.WeakKeyDictionary[nn.Module, Tracing]" = field(
        default_factory=weakref.WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def called(self, model: nn.Module, x: Images, step: Step) -> tuple[Tensor, Graph]:
        """The logits of a batch, and the graph of the network with the statistics of that batch."""
        with recording(step.engine.model) as statistics:
            logits = model(x)
        return logits, self._graph(step.engine.model, x, statistics)

    def graph(self, model: nn.Module, x: Images, step: Step) -> Graph:
        """The graph alone, for which a network is called only where its statistics or other processes ask for it."""
        raw = step.engine.model
        # Where several processes share each batch, their gradients meet through the call.
        if normalises(raw) or (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self.called(model, x, step)[1]
        return self._graph(raw, x, {})

    def clean(self, model: nn.Module, x: Images, y: Labels, step: Step, kappa: float) -> tuple[Tensor | float, Graph]:
        """kappa CE(f(x), y), and the graph; a kappa of 0 saves a pass through the network."""
        if kappa == 0:
            return 0.0, self.graph(model, x, step)
        logits, graph = self.called(model, x, step)
        return kappa * F.cross_entropy(logits, y), graph

    def _graph(self, raw: nn.Module, x: Images, statistics: Statistics) -> Graph:
        if raw not in self._tracings:
            self._tracings[raw] = Tracing(raw, x)
        return merged(self._tracings[raw].graph(statistics))


@dataclass(frozen=True)
class Certified(Traced):
    """An objective that bounds the network over a ball, which grows from nothing.

    For the first `warm_up` share of training the loss is the clean one; over the next `ramp` share eps grows from 0 to
    its own value. `growth` is "linear" (Gowal et al.) or "smooth": as the fourth power of time for the first quarter
    of the ramp, then straight (Shi et al.; Xu et al. 2020). `regulariser` is the weight at first of what keeps
    intervals tight and ReLUs balanced while eps grows (Shi et al., section 4.3), `l1` that of the sum of the
    magnitudes of all weights and biases.

    Batch normalisation uses the statistics of the batch that the model was called on for the bounds too, with their
    gradients.
    """

    threat: Ball
    warm_up: float = 0.03
    ramp: float = 0.17
    growth: Literal["linear", "smooth"] = "linear"
    regulariser: float = 0.0
    l1: float = 0.0

    def __call__(self, model: nn.Module, x: Images, y: Labels, *, step: Step) -> Tensor:
        grown = self.share(step.progress)
        if grown == 0:
            return F.cross_entropy(model(x), y)
        found = self.bounded(model, x, y, replace(self.threat, eps=self.threat.eps * grown), grown, step)
        loss = found.value
        if self.regulariser and grown < 1:
            loss = loss + self.regulariser * (1 - grown) * tightness_and_balance(found.graph, found.intervals)
        if self.l1:
            loss = loss + self.l1 * sum(parameter.abs().sum() for parameter in step.engine.model.parameters())
        return loss

    def bounded(self, model: nn.Module, x: Images, y: Labels, threat: Ball, grown: float, step: Step) -> Loss:
        """The loss where eps has grown to that of `threat`, the share `grown` of its own value."""
        raise NotImplementedError

    def share(self, progress: float) -> float:
        """How much of eps is asked for at `progress` of training, both in [0, 1]."""
        t = 1.0 if self.ramp == 0 else min(max((progress - self.warm_up) / self.ramp, 0.0), 1.0)
        if progress < self.warm_up:
            return 0.0
        if self.growth == "linear":
            return t
        # a t^4 up to t = 1/4, then the tangent there, which reaches 1 at t = 1 (Xu et al. 2020, appendix).
        middle = 0.25
        a = 1 / ((1 - middle) * 4 * middle**3 + middle**4)
        return a * t**4 if t < middle else a * (middle**4 + 4 * middle**3 * (t - middle))


def attacked(step: Step, x: Images, y: Labels, threat: Ball, *, n_steps: int, step_size: float) -> Images:
    """The last iterate of PGD from a random start, by the weights of this step; `step_size` in units of eps."""
    return maximise(
        step.frozen(),
        x,
        y,
        threat,
        keys=step.keys,
        start=threat.sample(x, rng.fold(step.keys, "start")),
        n_steps=n_steps,
        step_size=step_size * threat.eps,
        loss=cross_entropy,
    )


def worst_case_loss(margins: Tensor) -> Tensor:
    """The cross-entropy of the worst-case logits: 0 for the label, and minus the least margin for each rival."""
    worst = F.pad(-margins, (1, 0))
    return F.cross_entropy(worst, torch.zeros(len(worst), dtype=torch.int64, device=worst.device))
