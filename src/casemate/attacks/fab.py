"""FAB, the fast adaptive boundary attack (Croce & Hein 2020, arXiv:1907.02044): minimum distance by linearisation."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from casemate import rng
from casemate.attacks.hyperplane import change_to_hyperplane
from casemate.attacks.nearest import NearestAttack, Search
from casemate.attacks.pgd import ranked_class
from casemate.attacks.standing import excess
from casemate.errors import CasemateError
from casemate.gradients import Classifier
from casemate.losses import Labels, Values, margin
from casemate.threat import L1, L2, Images, Linf, Threat

ORDERS: dict[type[Threat], float] = {Linf: torch.inf, L2: 2, L1: 1}
# The paper's final search, between the nearest wrong point and the image. On the boundary itself rounding decides, and
# an answer of "right" there would be the last: each step stops a hundredth of its way short of it.
FINAL_STEPS, FINAL_SHARE = 3, 0.99


@dataclass(frozen=True)
class FAB(NearestAttack):
    """Find near misclassified points in linf, l2 or l1 on the linearised boundary to one wrong class after another.

    This is the targeted form, FAB-T, which AutoAttack uses (Croce & Hein 2020, arXiv:2003.01690): it costs one gradient
    a step where the untargeted form takes one for each class. For each of the `n_targets` most likely wrong classes at
    the clean image, each of `n_steps` steps takes the hyperplane on which the linearised logits of the label and the
    class are equal, and moves `eta` times the way to the nearest point of it in the box: from the current point, and
    from the image with weight min(a / (a + b), `alpha_max`), a and b being the lengths of the two ways. From a wrong
    point it goes back to `beta` of the change (algorithm 1). At last the nearest wrong point is drawn towards the image
    by three steps to where the margin loss would be 0 if it were linear in between.

    The first of `n_restarts` starts from the image; each other one at random, at half the distance of the nearest wrong
    point known, and at most half the eps of the threat model.

    Called as an attack, it stops at an image once it is broken inside the threat model. Cost for each class and
    restart: n_steps gradients and as many forward passes.
    """

    n_steps: int = 100
    n_targets: int = 9
    n_restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self) -> None:
        for name, least in (("step", self.n_steps), ("target class", self.n_targets), ("restart", self.n_restarts)):
            if least < 1:
                raise CasemateError(f"FAB needs at least 1 {name}, not {least}")
        if not 0 <= self.alpha_max <= 1:
            raise CasemateError(f"alpha_max of FAB is the largest weight of the image, in [0, 1], not {self.alpha_max}")
        if not self.eta >= 1:
            raise CasemateError(f"eta of FAB is how far past the hyperplane it steps, 1 or more, not {self.eta}")
        if not 0 < self.beta < 1:
            raise CasemateError(f"beta of FAB is the share of the change that it keeps, in (0, 1), not {self.beta}")

    def _searched(
        self, model: Classifier, x: Images, y: Labels, threat: Threat, keys: rng.Keys, stop_inside: bool
    ) -> Search:
        norms = ("linf", "l2", "l1")
        search = Search(model, x, y, threat, keys=keys, who="FAB", norms=norms, stop_inside=stop_inside)
        n_ranks = min(self.n_targets, search.clean_logits.shape[1] - 1)
        for restart in range(self.n_restarts):
            for rank in range(1, n_ranks + 1):
                run_keys = rng.fold(keys, "restart", restart, "target", rank)
                start = _random_start(search, rng.fold(run_keys, "start")) if restart else x
                self._approach(search, ranked_class(search.clean_logits, y, rank), start, run_keys)
        _final_search(search)
        return search

    def _approach(self, search: Search, target: Labels, start: Images, keys: rng.Keys) -> None:
        """One run towards the boundary with the class `target` [N] of each image."""
        x_adv = start.clone()
        # The lead of the target at a point where the classifier itself was asked, which a search in low precision may
        # not know well enough to find the boundary.
        exact = torch.full_like(search.distance, torch.nan, dtype=torch.float32)
        for step in range(self.n_steps):
            at = search.index
            if not len(at):
                break
            y, towards = search.y[at], target[at]
            gradient, logits = search.engine.gradient(
                x_adv[at], y, margin, target=towards, keys=rng.fold(keys[at], step)
            )
            search.note(x_adv[at], at, logits)
            lead = torch.where(exact[at].isnan(), margin(logits, y, towards), exact[at])
            points = self._step(x_adv[at], search.x[at], gradient, lead, ORDERS[type(search.threat)])
            answers = search.logits(points, at)
            wrong = excess(answers, y) > 0
            exact[at] = margin(answers, y, towards).masked_fill(wrong, torch.nan)
            back = torch.lerp(search.x[at], points, self.beta)
            x_adv[at] = torch.where(wrong[:, None, None, None], back, points)

    def _step(self, x_adv: Images, x: Images, gradient: Images, lead: Values, order: float) -> Images:
        """Past the hyperplane on which `lead`, linear with this gradient at `x_adv`, is 0, from both points."""
        here, clean, normal = x_adv.flatten(1), x.flatten(1), gradient.flatten(1)
        lead_at_clean = lead + ((clean - here) * normal).sum(dim=1)
        # Both projections in one call.
        points = torch.cat([here, clean])
        change = change_to_hyperplane(points, torch.cat([normal, normal]), -torch.cat([lead, lead_at_clean]), order)
        a, b = _norm(change, order).chunk(2)
        alpha = (a / (a + b).clamp(min=1e-12)).clamp(max=self.alpha_max)[:, None]
        from_here, from_clean = (points + self.eta * change).chunk(2)
        return torch.lerp(from_here, from_clean, alpha).clamp_(0, 1).view_as(x)


def _random_start(search: Search, keys: rng.Keys) -> Images:
    """A point in a random direction, half as far as the nearest wrong point and at most half of eps, in the box."""
    order, shape = ORDERS[type(search.threat)], search.x.shape[1:]
    noise = 2 * rng.uniform(keys, shape) - 1 if order == torch.inf else rng.normal(keys, shape)
    radius = search.distance.clamp(max=search.threat.eps).float() / 2
    scale = radius / _norm(noise.flatten(1), order).clamp(min=1e-12)
    return (search.x + scale.view(-1, 1, 1, 1) * noise).clamp_(0, 1)


def _final_search(search: Search) -> None:
    """Draw the nearest wrong points towards their images by the secant of the margin loss."""
    at = search.index
    at = at[search.distance[at].isfinite()]
    right, wrong, y = search.x[at], search.best[at], search.y[at]
    below, above = excess(search.clean_logits[at], y), excess(search.logits(wrong, at), y)
    for _ in range(FINAL_STEPS):
        share = (FINAL_SHARE * above / (above - below)).view(-1, 1, 1, 1)
        points = torch.lerp(wrong, right, share)
        # NaN for an image that has just been left, which then moves no more.
        found = excess(search.logits(points, at), y)
        hit = found > 0
        above, below = torch.where(hit, found, above), torch.where(hit, below, found)
        hit = hit.view(-1, 1, 1, 1)
        wrong, right = torch.where(hit, points, wrong), torch.where(hit, right, points)


def _norm(change: Float32[Tensor, "batch values"], order: float) -> Float[Tensor, "batch"]:
    return torch.linalg.vector_norm(change, order, dim=1)
