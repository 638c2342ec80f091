"""The path of APGD in l1: steps that change few values, in balls that shrink to eps (Croce & Hein 2021, section 3)."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from casemate import rng
from casemate.attacks.apgd_path import Path, each
from casemate.losses import Values
from casemate.threat import L1, Images

# Radii in units of eps, and the shares of the steps spent in each (section 3.3; the shares are of the authors' code).
STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
# The share of values that the first steps change (section 3.2), and later ones against the change so far.
FIRST_SHARE = 0.2
SPARSER = 1.5
# A change that kept at least this share of its values since the last checkpoint makes the steps shorter.
RATHER_SPARSER = 0.95
SHORTER, SHORTEST = 1.5, 10.0
# The share of a stage's steps between two checkpoints.
BETWEEN = 0.04


class SparsePath(Path[L1]):
    """Ascent by the signs of the largest entries of the gradient, ever fewer as the change gets sparse.

    One number of entries and one step size an image. Each stage goes on from the best point of the one before, moved
    into its smaller ball; the last ball is the threat model's.
    """

    def __init__(self, x: Images, threat: L1, n_steps: int, keys: rng.Keys) -> None:
        super().__init__(x, threat, start=x + rng.normal(keys, x.shape[1:]))
        self._ends = _ends(n_steps)
        self._taken, self._stage = 0, -1
        self.step_size = torch.zeros_like(self.best_loss)
        self.n_values = self.sparsity = self.step_size
        self._enter_due_stage()

    @property
    def judged(self) -> bool:
        return self._stage == len(STAGES) - 1

    def check(self, loss: Values) -> Bool[Tensor, "images"] | None:
        within = self._taken - self._entered
        if within == 0 or within % self._between:
            return None
        now = _n_changed(self.best, self.x)
        sparser = now < RATHER_SPARSER * self.sparsity
        shorter = (self.step_size / SHORTER).clamp(min=self._ball.eps / SHORTEST)
        self.step_size = shorter.masked_fill(sparser, self._ball.eps)
        self.n_values, self.sparsity = now / SPARSER, now
        return sparser

    def step(self, x_adv: Images, gradient: Images) -> None:
        ahead = x_adv + each(self.step_size) * sparse_sign(gradient, self.n_values)
        self.x_adv = self._ball.project(ahead, self.x)
        self._taken += 1
        self._enter_due_stage()

    def _enter_due_stage(self) -> None:
        """With very few steps a stage may have none."""
        while not self.judged and (self._stage < 0 or self._taken == self._ends[self._stage]):
            self._enter(self._stage + 1)

    def _enter(self, stage: int) -> None:
        self._ball = replace(self.threat, eps=STAGES[stage][0] * self.threat.eps)
        self._between = max(int(BETWEEN * (self._ends[stage] - self._taken)), 1)
        self._stage, self._entered = stage, self._taken
        self.x_adv = self._ball.project(self.best, self.x)
        self.forget()
        self.step_size = torch.full_like(self.best_loss, self._ball.eps)
        if stage == 0:
            self.sparsity = torch.full_like(self.best_loss, self.x.shape[1:].numel())
            self.n_values = FIRST_SHARE * self.sparsity
        else:
            self.sparsity = _n_changed(self.best, self.x)
            self.n_values = self.sparsity / SPARSER


def sparse_sign(gradient: Images, n_values: Values) -> Images:
    """The signs of the `n_values` [N] largest entries of each gradient, divided by their number, and zero elsewhere.

    Rounded down, but at least one; entries as large as the last of them are among them.
    """
    flat = gradient.flatten(1)
    place = n_values.long().clamp(1, flat.shape[1]) - 1
    least = flat.abs().sort(dim=1, descending=True).values.gather(1, place[:, None])
    sign = flat.sign() * (flat.abs() >= least)
    return (sign / sign.abs().sum(dim=1, keepdim=True).clamp(min=1)).view_as(gradient)


def _ends(n_steps: int) -> list[int]:
    """After how many steps each stage ends; the last takes what rounding leaves."""
    first, second = (int(share * n_steps) for _, share in STAGES[:2])
    return [first, first + second, n_steps]


def _n_changed(x_adv: Images, x: Images) -> Values:
    return (x_adv != x).flatten(1).sum(dim=1).to(x.dtype)
