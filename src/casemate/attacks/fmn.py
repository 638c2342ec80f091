"""FMN, fast minimum norm (Pintor et al. 2021, arXiv:2102.12827): minimum linf, l2 or l1 distance by gradients."""

import math
from dataclasses import dataclass

import torch

from casemate import rng
from casemate.attacks.direction import or_random
from casemate.attacks.nearest import NearestAttack, Search, annealed
from casemate.errors import CasemateError
from casemate.gradients import Classifier
from casemate.losses import Labels, Logits, margin
from casemate.threat import L2, Distances, Images, Linf, Threat

# The authors' code: the last step as a share of the first, and the share by which the last step changes eps.
LAST_STEP = 0.01
LAST_GAMMA = 0.001


@dataclass(frozen=True)
class FMN(NearestAttack):
    """Find near misclassified points in linf, l2 or l1: steps of the gradient within a ball that follows the boundary.

    Each of `n_steps` steps adds `step_size` times the gradient of the margin loss, of unit l2 norm, to the change, and
    takes it back into the ball of radius eps around the image and then into the box (algorithm 1). Where the last point
    was misclassified, eps becomes (1 - `gamma`) times what it was, and no more than the nearest distance; where it was
    not, (1 + `gamma`) times. While no misclassified point is known, what it was gives way to the distance of the last
    point and on from there to the boundary, by the margin over the dual norm of its gradient; the paper stops right at
    that estimate. Half a cosine takes `step_size` to a hundredth and `gamma` to 0.001, as in the authors' code. The
    nearest misclassified point on the way is kept.

    The eps of the threat model plays no part in that. Called as an attack, it stops at an image once it is broken
    inside the threat model. Cost: n_steps gradients and a forward pass for each point that looks nearer than the
    nearest, some tens.
    """

    n_steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise CasemateError(f"FMN needs at least 1 step, not {self.n_steps}")
        if not 0 < self.step_size < math.inf:
            raise CasemateError(f"the step size of FMN is a positive l2 norm, not {self.step_size}")
        if not 0 < self.gamma < 1:
            raise CasemateError(f"gamma of FMN is the share by which eps changes, in (0, 1), not {self.gamma}")

    def _searched(
        self, model: Classifier, x: Images, y: Labels, threat: Threat, keys: rng.Keys, stop_inside: bool
    ) -> Search:
        search = Search(model, x, y, threat, keys=keys, who="FMN", norms=("linf", "l2", "l1"), stop_inside=stop_inside)
        x_adv = x.clone()
        eps = torch.full_like(search.distance, torch.inf)
        # No change in the box is longer than that to its farthest corner.
        longest = threat.measure((x < 0.5).to(x.dtype), x)
        for step in range(self.n_steps):
            at = search.index
            if not len(at):
                break
            step_keys = rng.fold(keys[at], step)
            gradient, wrong, logits = search.gradient(x_adv[at], at, margin, step_keys)
            gamma = annealed(self.gamma, LAST_GAMMA, step, self.n_steps)
            nearest = search.distance[at]
            inwards = torch.minimum((1 - gamma) * eps[at], nearest)
            boundary = threat.measure(x_adv[at], x[at]) + _to_boundary(gradient, logits, y[at], threat)
            # Beyond the estimate too: at a linear boundary it is exact, and the boundary itself is not misclassified.
            outwards = (1 + gamma) * torch.where(nearest.isfinite(), eps[at], boundary)
            eps[at] = torch.minimum(torch.where(wrong, inwards, outwards), longest[at])
            step_size = self.step_size * annealed(1, LAST_STEP, step, self.n_steps)
            change = x_adv[at] - x[at] + step_size * L2(1).ascent(or_random(gradient, step_keys), gradient)
            x_adv[at] = (x[at] + _in_ball(change, eps[at], threat)).clamp_(0, 1)
        at = search.index
        search.ask(x_adv[at], at)
        return search


def _to_boundary(gradient: Images, logits: Logits, y: Labels, threat: Threat) -> Distances:
    """How far each point is from the boundary, were the margin linear."""
    dual = 1 if isinstance(threat, Linf) else 2 if isinstance(threat, L2) else math.inf
    slope = gradient.flatten(1).double().norm(p=dual, dim=1)
    # Without a slope it is as far as the box goes.
    return margin(logits, y).double().abs() / slope.clamp(min=1e-300)


def _in_ball(change: Images, eps: Distances, threat: Threat) -> Images:
    """The Euclidean projection of each change onto the ball of its own radius `eps` [n] around 0, without the box."""
    flat, limit = change.flatten(1), eps.float()[:, None]
    if isinstance(threat, Linf):
        inside = flat.clamp(-limit, limit)
    elif isinstance(threat, L2):
        inside = flat * (limit / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
    else:
        # Every size shrinks by the lambda after which they sum to eps: the largest (sum of the k largest - eps) / k.
        size = flat.abs()
        total = size.sort(dim=1, descending=True).values.cumsum(dim=1)
        count = torch.arange(1, size.shape[1] + 1, device=size.device)
        shrinkage = ((total - limit) / count).amax(dim=1, keepdim=True).clamp(min=0)
        inside = (size - shrinkage).clamp_(min=0) * flat.sign()
    return inside.view_as(change)
