"""The path of APGD in linf and l2: momentum, and steps halved at checkpoints (Croce & Hein 2020, algorithm 1)."""

import torch
from jaxtyping import Bool
from torch import Tensor

from casemate import rng
from casemate.attacks.apgd_path import Path, each
from casemate.losses import Values
from casemate.threat import Images, Threat

# Section 3: the first step in units of eps, the weight of the new direction against the last one, and the share of
# steps that have to gain.
FIRST_STEP = 2.0
ALPHA = 0.75
RHO = 0.75


class MomentumPath(Path[Threat]):
    """Ascent from a random point by steps of one size an image, which is halved where the loss has stopped growing."""

    def __init__(self, x: Images, threat: Threat, n_steps: int, keys: rng.Keys) -> None:
        super().__init__(x, threat, start=threat.sample(x, keys))
        self.before = self.x_adv
        self.step_size = x.new_full((len(x),), FIRST_STEP * threat.eps)
        self.last_loss = self.best_loss_then = self.best_loss
        self.n_gains = x.new_zeros(len(x))
        self.halved_then = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._checkpoints = frozenset(checkpoints(n_steps))
        self._taken = self._checked = 0

    def check(self, loss: Values) -> Bool[Tensor, "images"] | None:
        """Conditions 1 and 2 of the paper, for the steps since the last checkpoint."""
        if self._taken == 0:
            self.best_loss_then = loss
        else:
            self.n_gains = self.n_gains + (loss > self.last_loss)
        self.last_loss = loss
        if self._taken not in self._checkpoints:
            return None
        few_gains = self.n_gains <= RHO * (self._taken - self._checked)
        no_better = ~self.halved_then & (self.best_loss <= self.best_loss_then)
        halved = few_gains | no_better
        self.step_size = torch.where(halved, self.step_size / 2, self.step_size)
        self.halved_then, self.best_loss_then = halved, self.best_loss
        self.n_gains, self._checked = torch.zeros_like(self.n_gains), self._taken
        return halved

    def step(self, x_adv: Images, gradient: Images) -> None:
        """The step of equations 3 and 4; the first is without momentum."""
        ahead = x_adv + each(self.step_size) * self.threat.ascent(gradient, x_adv)
        ahead = self.threat.project(ahead, self.x)
        if self._taken:
            ahead = x_adv + ALPHA * (ahead - x_adv) + (1 - ALPHA) * (x_adv - self.before)
            ahead = self.threat.project(ahead, self.x)
        self.before, self.x_adv = x_adv, ahead
        self._taken += 1


def checkpoints(n_steps: int) -> list[int]:
    """The numbers of steps after which a step size may be halved: after 22% of them, then ever sooner, by 6% at least.

    For 100 steps 22, 41, 57, 70, 80, 87, 93 and 99 (section 3, with the whole numbers of the authors' code).
    """
    gap, shrink, least = (max(int(share * n_steps), 1) for share in (0.22, 0.03, 0.06))
    found, at = [], gap
    while at < n_steps:
        found.append(at)
        gap = max(gap - shrink, least)
        at += gap
    return found
