"""What is to be proved: the logit of the label above every other one (Gowal et al. 2018, sections 2 and 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from casemate.bounds.bounded import Bounded
from casemate.bounds.graph import Graph
from casemate.bounds.interval import Interval
from casemate.bounds.operations import Linear
from casemate.bounds.rounding import Rounding
from casemate.losses import Labels

Margins = Float[Tensor, "batch rivals"]


def rivals(y: Labels, n_classes: int) -> Int64[Tensor, "batch rivals"]:
    """The classes other than the label, in their order."""
    classes = torch.arange(n_classes, device=y.device).expand(len(y), n_classes)
    return classes[classes != y[:, None]].view(len(y), n_classes - 1)


def differences(y: Labels, n_classes: int) -> Float[Tensor, "batch rivals classes"]:
    """The coefficients of the logits of which the margins are made."""
    others = rivals(y, n_classes)
    rows = torch.zeros(*others.shape, n_classes, device=y.device)
    rows.scatter_(2, y[:, None, None].expand(*others.shape, 1), 1)
    return rows.scatter_(2, others[:, :, None], -1)


def least_margins(graph: Graph, rounding: Rounding | None, values: Sequence[Bounded], y: Labels) -> Margins:
    """Lower bounds of the logit of the label minus that of each rival, from the values of every node.

    A last layer that is linear is merged with the difference ("elision"), so that both logits take the same values of
    the layer before it: for intervals W_y - W_j times its centre, less |W_y - W_j| times its radius.
    """
    others = rivals(y, graph.n_classes)
    last = graph.nodes[-1]
    if not isinstance(last.operation, Linear):
        logits = values[-1]
        own = logits.lower.gather(1, y[:, None])
        return own - logits.upper.gather(1, others)
    layer, x = last.operation, values[last.inputs[0]]
    if rounding is None and isinstance(x, Interval) and graph.n_classes <= len(y):
        return _by_pairs(layer, x, y, others)
    difference = merged(layer, y, others)
    margins = x.least(difference.weight) + difference.bias
    if rounding is None:
        return margins
    # The classifier computes each of the two logits for itself.
    gamma = rounding.gamma(layer.terms) + rounding.summing(layer.terms + x.n_errors)
    size = layer.absolute(x.size) + (0 if layer.bias is None else layer.bias.abs())
    lost = gamma * size + rounding.tiny(layer.terms)
    return margins - 2 * (lost.gather(1, y[:, None]) + lost.gather(1, others))


def _by_pairs(layer: Linear, x: Interval, y: Labels, others: Int64[Tensor, "batch rivals"]) -> Margins:
    """The same for intervals of many images, from one table of all pairs of classes instead of rows for each image."""
    weight = layer.weight
    pairs = (weight[:, None] - weight[None]).abs().flatten(0, 1)
    reach = (x.radius @ pairs.T).view(len(y), len(weight), -1)
    logits = layer.shifted(x.centre)
    own = y[:, None]
    spread = reach.gather(1, own[:, :, None].expand(-1, 1, len(weight))).squeeze(1)
    return logits.gather(1, own) - logits.gather(1, others) - spread.gather(1, others)


@dataclass(frozen=True, eq=False)
class Differences:
    """weight [batch, rivals, features] and bias [batch, rivals] of the label's logit minus each rival's."""

    weight: Tensor
    bias: Tensor


def merged(layer: Linear, y: Labels, others: Int64[Tensor, "batch rivals"]) -> Differences:
    weight = layer.weight[y][:, None, :] - layer.weight[others]
    bias = torch.zeros_like(weight[..., 0]) if layer.bias is None else layer.bias[y][:, None] - layer.bias[others]
    return Differences(weight, bias)
