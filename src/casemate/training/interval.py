"""Interval bound propagation in training (Gowal et al. 2018), with the short warm-up of Shi et al. 2021."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casemate.bounds import Interval, Intervals, Tracing, box_of, least_margins, propagate
from casemate.bounds.graph import Graph
from casemate.bounds.operations import LeakyReLU
from casemate.losses import Labels
from casemate.threat import Images
from casemate.training.objective import Ball, Step

Statistics = dict[nn.Module, tuple[Tensor, Tensor]]
_DOMAIN = Intervals()


@dataclass(frozen=True)
class IntervalTraining:
    """kappa CE(f(x), y) + (1 - kappa) CE(worst-case logits, y) (Gowal et al. 2018, equation 12).

    For the first `warm_up` share of training the loss is the clean one; over the next `ramp` share eps grows from 0 to
    its own value and kappa falls from 1 to `kappa`. `growth` is "linear" (Gowal et al.) or "smooth": as the fourth
    power of time for the first quarter of the ramp, then straight (Shi et al.; Xu et al. 2020). `regulariser` is the
    weight at first of what keeps intervals tight and ReLUs balanced while eps grows (Shi et al., section 4.3).

    Batch normalisation uses the statistics of the clean batch for the intervals too, with their gradients.
    """

    threat: Ball
    kappa: float = 0.5
    warm_up: float = 0.03
    ramp: float = 0.17
    growth: Literal["linear", "smooth"] = "linear"
    regulariser: float = 0.0
    _tracings: "weakref.WeakKeyDictionary[nn.Module, Tracing]" = field(
        default_factory=weakref.WeakKeyDictionary, repr=False, compare=False
    )

    def __call__(self, model: nn.Module, x: Images, y: Labels, *, step: Step) -> Tensor:
        grown = self.share(step.progress)
        raw = step.engine.model
        with recording(raw) as statistics:
            logits = model(x)
        clean = F.cross_entropy(logits, y)
        if grown == 0:
            return clean
        graph = self._tracing(raw, x).graph(statistics)
        box = box_of(replace(self.threat, eps=self.threat.eps * grown), x, _DOMAIN)
        values = propagate(graph, _DOMAIN, box)
        margins = least_margins(graph, None, values, y)
        kappa = 1 - grown * (1 - self.kappa)
        loss = kappa * clean + (1 - kappa) * worst_case_loss(margins)
        if self.regulariser and grown < 1:
            loss = loss + self.regulariser * (1 - grown) * tightness_and_balance(graph, values)
        return loss

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

    def _tracing(self, raw: nn.Module, x: Images) -> Tracing:
        if raw not in self._tracings:
            self._tracings[raw] = Tracing(raw, x)
        return self._tracings[raw]


def worst_case_loss(margins: Tensor) -> Tensor:
    """The cross-entropy of the worst-case logits: 0 for the label, and minus the least margin for each rival."""
    worst = F.pad(-margins, (1, 0))
    return F.cross_entropy(worst, torch.zeros(len(worst), dtype=torch.int64, device=worst.device))


def tightness_and_balance(graph: Graph, values: list[Interval], tolerance: float = 0.5) -> Tensor:
    """The regularisers of Shi et al. 2021 (equations 9 and 10), summed, each a mean over the layers of ReLUs.

    Tightness asks that the mean radius before a ReLU is not more than 1 / `tolerance` of the image's. Balance asks the
    same of the sums of the centres of the intervals that are all positive and of those that are all negative, and of
    their variances, both ways round.
    """
    before = [values[node.inputs[0]] for node in graph.nodes if isinstance(node.operation, LeakyReLU)]
    tight = [F.relu(tolerance - values[0].radius.mean() / value.radius.mean().clamp(min=1e-12)) for value in before]
    balance = [_imbalance(value, tolerance) for value in before]
    return (torch.stack(tight).mean() + torch.stack(balance).mean()) / tolerance


def _imbalance(value: Interval, tolerance: float) -> Tensor:
    active, inactive = (value.lower > 0).to(value.centre), (value.upper < 0).to(value.centre)
    centre = value.centre
    mean = centre.mean(dim=0)
    spread = (centre - mean).square()
    ratios = []
    for quantity in (centre.abs(), spread):
        positive, negative = (active * quantity).sum(), (inactive * quantity).sum()
        if bool(positive > 0) and bool(negative > 0):
            ratios.append(torch.minimum(positive / negative, negative / positive))
    return sum((F.relu(tolerance - ratio) for ratio in ratios), start=centre.new_zeros(()))


@contextmanager
def recording(model: nn.Module) -> Iterator[Statistics]:
    """The mean and variance of the batch at every layer of batch normalisation that trains, while open."""
    found: Statistics = {}

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        axes = (0, *range(2, inputs[0].ndim))
        found[module] = (inputs[0].mean(dim=axes), inputs[0].var(dim=axes, unbiased=False))

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(note) for norm in norms if norm.training]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
