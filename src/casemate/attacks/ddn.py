"""DDN, decoupled direction and norm (Rony et al. 2019, arXiv:1811.09600): minimum l2 distance by gradients."""

from dataclasses import dataclass

import torch

from casemate import rng
from casemate.attacks.direction import or_random
from casemate.attacks.nearest import NearestAttack, Search, annealed
from casemate.errors import CasemateError
from casemate.gradients import Classifier
from casemate.losses import Labels, cross_entropy
from casemate.threat import Images, Threat

# Algorithm 1: the norm of the first change, and the steps along the normalised gradient from the first to the last.
FIRST_NORM = 1.0
FIRST_STEP, LAST_STEP = 1.0, 0.01


@dataclass(frozen=True)
class DDN(NearestAttack):
    """Find near misclassified points in l2: the gradient turns the change, and the last answer sets its norm.

    Each of `n_steps` steps adds a step along the normalised gradient of the cross-entropy, from 1 down to 0.01 by a
    cosine, to the change, then gives the change a norm (1 - `gamma`) times that before where the last point was
    misclassified, (1 + `gamma`) times where it was not, and clips it to the box (algorithm 1; the paper's points on the
    256 grey levels are left out, since a threat model allows all of [0, 1]). The nearest misclassified point on the
    way is kept. The paper's budgets are 100, 300 and 1,000 steps.

    Called as an attack, it stops at an image once it is broken inside the threat model. Cost: n_steps gradients and
    a forward pass for each point that looks nearer than the nearest, some tens.
    """

    n_steps: int = 100
    gamma: float = 0.05

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise CasemateError(f"DDN needs at least 1 step, not {self.n_steps}")
        if not 0 < self.gamma < 1:
            raise CasemateError(f"gamma of DDN is the share by which the norm changes, in (0, 1), not {self.gamma}")

    def _searched(
        self, model: Classifier, x: Images, y: Labels, threat: Threat, keys: rng.Keys, stop_inside: bool
    ) -> Search:
        search = Search(model, x, y, threat, keys=keys, who="DDN", norms=("l2",), stop_inside=stop_inside)
        x_adv = x.clone()
        norm = torch.full_like(search.distance, FIRST_NORM)
        # No change in the box is longer than that to its farthest corner.
        longest = torch.maximum(x, 1 - x).flatten(1).double().norm(dim=1)
        for step in range(self.n_steps):
            at = search.index
            if not len(at):
                break
            step_keys = rng.fold(keys[at], step)
            gradient, wrong, _ = search.gradient(x_adv[at], at, cross_entropy, step_keys)
            factor = torch.where(wrong, 1 - self.gamma, 1 + self.gamma).double()
            norm[at] = torch.minimum(norm[at] * factor, longest[at])
            step_size = annealed(FIRST_STEP, LAST_STEP, step, self.n_steps)
            change = x_adv[at] - x[at] + step_size * threat.ascent(or_random(gradient, step_keys), gradient)
            length = change.flatten(1).double().norm(dim=1).clamp(min=1e-12)
            change = change * (norm[at] / length).float().view(-1, 1, 1, 1)
            x_adv[at] = (x[at] + change).clamp_(0, 1)
        at = search.index
        search.ask(x_adv[at], at)
        return search
