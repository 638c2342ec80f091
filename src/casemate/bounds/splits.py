"""Sub-domains by the signs of the inputs of ReLUs, and their bounds: beta-CROWN (Wang et al. 2021, arXiv:2103.06624).

Whatever an activation's input is computed to be, it is at least 0 or at most 0, so that the two halves of a split cover
all that the classifier can compute, rounding included. Inside a half the input s z >= 0 of sign s, and for any
multiplier beta >= 0 a lower bound of C f - beta s z is one of C f (their equation 8).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from casemate.bounds.coefficients import Coefficients, Dense
from casemate.bounds.graph import Node
from casemate.bounds.interval import Interval
from casemate.bounds.linear import LinearBounds
from casemate.bounds.operations import LeakyReLU

# The rates of Adam for slopes and multipliers, and by what they shrink each step.
SLOPE_RATE, MULTIPLIER_RATE, DECAY = 0.25, 0.1, 0.97


@dataclass(eq=False)
class Splits:
    """n sub-domains: for each node that feeds an activation the `signs` [n, *shape], 0 where it is not split.

    `slopes` and `multipliers` of the same shapes are where the optimisation goes on from.
    """

    signs: dict[int, Tensor]
    slopes: dict[int, Tensor]
    multipliers: dict[int, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.signs.values())))

    def take(self, at: Tensor) -> "Splits":
        signs, slopes, multipliers = (
            {place: part[at] for place, part in parts.items()} for parts in (self.signs, self.slopes, self.multipliers)
        )
        return Splits(signs, slopes, multipliers)

    def beside(self, other: "Splits") -> "Splits":
        pairs = ((self.signs, other.signs), (self.slopes, other.slopes), (self.multipliers, other.multipliers))
        signs, slopes, multipliers = ({place: torch.cat([a[place], b[place]]) for place in a} for a, b in pairs)
        return Splits(signs, slopes, multipliers)


@dataclass(frozen=True, eq=False)
class Least:
    """Lower bounds `lower` [n] in sub-domains, rounding taken off, and what they were found by.

    `coefficients` [n, *shape] are those of the bound in each node that feeds an activation, taken at the activation's
    result. `corner` [n, *image] is where in the box its linear function of the image is least: what the sub-domain has
    against the bound, if anything.
    """

    lower: Tensor
    coefficients: dict[int, Tensor]
    corner: Tensor


def unsplit(bounds: LinearBounds) -> Splits:
    """The whole domain of one image; empty mappings where the graph has no activation."""
    slopes = {
        node.inputs[0]: bounds.relaxed(place).below.slope.detach().clone() for place, node in _activations(bounds)
    }
    zeros = {source: torch.zeros_like(slope) for source, slope in slopes.items()}
    return Splits(zeros, slopes, {source: zero.clone() for source, zero in zeros.items()})


def restricted(bounds: LinearBounds, signs: dict[int, Tensor]) -> LinearBounds:
    """The bounds of one image inside each sub-domain: the inputs that are split end at 0."""
    n = len(next(iter(signs.values())))
    boxes = []
    for place, box in enumerate(bounds.boxes):
        centre, radius = (part.expand(n, *part.shape[1:]) for part in (box.centre, box.radius))
        if place in signs:
            sign = signs[place]
            lower = torch.where(sign > 0, (centre - radius).clamp(min=0), centre - radius)
            upper = torch.where(sign < 0, (centre + radius).clamp(max=0), centre + radius)
            clamped = bounds.domain.between(lower, upper)
            centre = torch.where(sign == 0, centre, clamped.centre)
            radius = torch.where(sign == 0, radius, clamped.radius)
        boxes.append(Interval(centre, radius))
    return bounds.between(boxes)


def at_first(bounds: LinearBounds, row: Tensor, splits: Splits) -> Tensor:
    """`least` before any step and up to rounding, which is enough to choose by: one pass back."""
    slopes, multipliers = splits.slopes, splits.multipliers
    with torch.no_grad():
        return _below(restricted(bounds, splits.signs), row, splits, slopes, multipliers, rounded=False)


def least(bounds: LinearBounds, row: Tensor, splits: Splits, n_steps: int) -> Least:
    """Lower bounds of row [classes] times the logits in each sub-domain.

    Slopes and multipliers of `splits` become the best found in `n_steps` of projected Adam.
    """
    inside = restricted(bounds, splits.signs)
    slopes = {source: part.clone().requires_grad_() for source, part in splits.slopes.items()}
    betas = {source: part.clone().requires_grad_() for source, part in splits.multipliers.items()}
    adam = torch.optim.Adam(
        [{"params": list(slopes.values()), "lr": SLOPE_RATE}, {"params": list(betas.values()), "lr": MULTIPLIER_RATE}]
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, DECAY)
    best = torch.full((len(splits),), -torch.inf, dtype=row.dtype, device=row.device)

    for step in range(n_steps + 1):
        found = _below(inside, row, splits, slopes, betas, rounded=False)
        better = found.detach() > best
        best = torch.where(better, found.detach(), best)
        for kept, tried in ((splits.slopes, slopes), (splits.multipliers, betas)):
            for source, part in tried.items():
                kept[source] = torch.where(better.view(-1, *(1 for _ in part.shape[1:])), part.detach(), kept[source])
        if step == n_steps or bool((best > 0).all()):
            break
        adam.zero_grad()
        (-found.sum()).backward()
        adam.step()
        schedule.step()
        with torch.no_grad():
            for _, node in _activations(bounds):
                assert isinstance(node.operation, LeakyReLU)
                slopes[node.inputs[0]].clamp_(node.operation.slope, 1)
            for part in betas.values():
                part.clamp_(min=0)
    seen: dict[int, Coefficients] = {}
    with torch.no_grad():
        lowest = _below(inside, row, splits, splits.slopes, splits.multipliers, rounded=True, seen=seen)
    nodes, image = bounds.graph.nodes, inside.image
    of_image = seen.pop(0, None)
    slope = torch.zeros_like(image.centre) if of_image is None else of_image.dense().values.squeeze(1)
    before = {nodes[place].inputs[0]: part.dense().values.squeeze(1) for place, part in seen.items()}
    return Least(lowest, before, image.centre - slope.sign() * image.radius)


def _below(
    inside: LinearBounds,
    row: Tensor,
    splits: Splits,
    slopes: dict[int, Tensor],
    multipliers: dict[int, Tensor],
    *,
    rounded: bool,
    seen: dict[int, Coefficients] | None = None,
) -> Tensor:
    """Lower bounds [n] by these slopes and multipliers."""
    rows = Dense(row.expand(len(splits), 1, *row.shape))
    lines = {place: slopes[node.inputs[0]][:, None] for place, node in _activations(inside)}
    added = {source: -(splits.signs[source] * part)[:, None] for source, part in multipliers.items()}
    last = len(inside.graph.nodes) - 1
    return inside.lower(last, rows, lines, rounded=rounded, added=added, seen=seen).squeeze(1)


def _activations(bounds: LinearBounds) -> list[tuple[int, Node]]:
    return [(place, node) for place, node in enumerate(bounds.graph.nodes) if isinstance(node.operation, LeakyReLU)]
