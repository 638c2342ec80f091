"""Carlini & Wagner 2017 (arXiv:1608.04644), section VI-A: minimum l2 distance, with the margin weighed against it."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from casemate import rng
from casemate.attacks.adam import Adam
from casemate.attacks.nearest import NearestAttack, Search
from casemate.errors import CasemateError
from casemate.gradients import Classifier
from casemate.losses import Labels, margin
from casemate.threat import Images, Threat

# The authors' code: black and white are as far as this from the centre, since tanh does not reach the faces of the box;
# a descent ends where the loss after a tenth of the steps is above this share of what it was.
WITHIN = 0.999999
PROGRESS = 0.9999
N_CHECKS = 10

Cs = Float64[Tensor, "images"]


@dataclass(frozen=True)
class CarliniWagner(NearestAttack):
    """Find near misclassified points in l2: Adam on the squared distance plus c times what the margin lacks.

    With x_adv = (tanh(w) + 1) / 2, which keeps the box, each of `n_search_steps` descents takes up to `n_steps` steps
    of Adam, of size `learning_rate`, on |x_adv - x|^2 + c max(`kappa` - margin loss, 0), starting from the image.
    c belongs to the image: `first_c` at first, ten times as much after each descent until one meets a misclassified
    point of margin loss `kappa` or more, and from then on halfway between the largest c that failed and the least that
    did not. A descent is over for an image where its least loss has fallen by less than 0.01% in a tenth of the steps.
    The authors' code compares the loss of the whole batch at the two steps alone, which for one image is up to chance,
    for it swings about the boundary; and it takes 10,000 steps by default, where 1,000 are the common choice.

    The nearest misclassified point on the way is kept, whatever its margin: `kappa` above 0 makes for points farther
    beyond the boundary, and for larger distances.

    Called as an attack, it stops at an image once it is broken inside the threat model. Cost: at most `n_search_steps`
    times `n_steps` gradients, and a forward pass for each point that looks nearer than the nearest.
    """

    n_steps: int = 1000
    n_search_steps: int = 9
    learning_rate: float = 0.01
    first_c: float = 1e-3
    kappa: float = 0.0

    def __post_init__(self) -> None:
        for name, count in (("step", self.n_steps), ("search step", self.n_search_steps)):
            if count < 1:
                raise CasemateError(f"CarliniWagner needs at least 1 {name}, not {count}")
        for name, value in (("learning rate", self.learning_rate), ("first c", self.first_c)):
            if not 0 < value < math.inf:
                raise CasemateError(f"the {name} of CarliniWagner must be positive, not {value}")
        if not 0 <= self.kappa < math.inf:
            raise CasemateError(f"kappa of CarliniWagner is a margin of at least 0, not {self.kappa}")

    def _searched(
        self, model: Classifier, x: Images, y: Labels, threat: Threat, keys: rng.Keys, stop_inside: bool
    ) -> Search:
        search = Search(model, x, y, threat, keys=keys, who="CarliniWagner", norms=("l2",), stop_inside=stop_inside)
        c = torch.full_like(search.distance, self.first_c)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for search_step in range(self.n_search_steps):
            reached = self._descend(search, c, rng.fold(keys, search_step))
            c, low, high = _searched_c(c, low, high, reached)
        return search

    def _descend(self, search: Search, c: Cs, keys: rng.Keys) -> Bool[Tensor, "batch"]:
        """One descent of each image at its c, and whether it met a misclassified point of margin `kappa`."""
        w = _to_w(search.x)
        adam = Adam(w)
        reached = torch.zeros_like(search.y, dtype=torch.bool)
        falling = torch.ones_like(reached)
        least = torch.full_like(c, torch.inf)
        checked = least.clone()
        check_every = max(1, self.n_steps // N_CHECKS)
        for step in range(self.n_steps):
            at = search.index
            at = at[falling[at]]
            if not len(at):
                break
            x, x_adv = search.x[at], _to_image(w[at])
            gradient, wrong, logits = search.gradient(x_adv, at, margin, rng.fold(keys[at], step))
            lacking = (self.kappa - margin(logits, search.y[at]).double()).clamp(min=0)
            # Where the classifier itself says that the point is right, the search in low precision has to go on.
            there = wrong & (lacking == 0)
            reached[at] |= there
            loss = search.threat.measure(x_adv, x).square() + c[at] * lacking
            least[at] = torch.minimum(least[at], loss)
            if step % check_every == 0:
                falling[at] = least[at] <= PROGRESS * checked[at]
                checked[at] = least[at]
            slope = _slope(x_adv, x, gradient, c[at].masked_fill(there, 0))
            w[at] -= self.learning_rate * adam.direction(slope, at)
        return reached


def _searched_c(c: Cs, low: Cs, high: Cs, reached: Bool[Tensor, "batch"]) -> tuple[Cs, Cs, Cs]:
    """The next c of each image, the largest that failed (0 for none), and the least that did not (inf for none)."""
    low, high = torch.where(reached, low, c), torch.where(reached, c, high)
    return torch.where(high.isfinite(), (low + high) / 2, 10 * c), low, high


def _to_w(x: Images) -> Images:
    return torch.atanh(WITHIN * (2 * x - 1))


def _to_image(w: Images) -> Images:
    return (torch.tanh(w) + 1) / 2


def _slope(x_adv: Images, x: Images, gradient: Images, c: Cs) -> Images:
    """The gradient with respect to w of |x_adv - x|^2 - c margin, from that of the margin with respect to x_adv."""
    return 2 * x_adv * (1 - x_adv) * (2 * (x_adv - x) - c.float().view(-1, 1, 1, 1) * gradient)
