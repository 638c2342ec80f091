"""Goals made of others (DiffAI v3): weighted means, one of several by chance, and one after the other.

A weight below 0 is 0, and a goal without weight costs nothing.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from casemate import rng
from casemate.errors import CasemateError
from casemate.training.diffai.batch import Batch
from casemate.training.diffai.goals import Goal
from casemate.training.diffai.schedules import Constant, Schedule

Parts = tuple[tuple[Schedule, Goal], ...]


@dataclass(frozen=True)
class LinMix:
    """(1 - bw) a + bw b."""

    a: Goal
    b: Goal
    bw: Schedule = Constant(0.1)

    def loss(self, batch: Batch) -> Tensor:
        weight = min(max(self.bw.at(batch.epoch), 0.0), 1.0)
        return _mean(batch, (1 - weight, weight), (self.a, self.b), ("a", "b"))


@dataclass(frozen=True)
class Mix:
    """The mean of a and b with the weights `aw` and `bw`."""

    a: Goal
    b: Goal
    aw: Schedule = Constant(1.0)
    bw: Schedule = Constant(0.1)

    def loss(self, batch: Batch) -> Tensor:
        return _mean(batch, shares((self.aw, self.bw), batch.epoch), (self.a, self.b), ("a", "b"))


@dataclass(frozen=True)
class DList:
    """The mean of several goals with their weights."""

    parts: Parts

    def loss(self, batch: Batch) -> Tensor:
        weights, goals = zip(*self.parts, strict=True)
        return _mean(batch, shares(weights, batch.epoch), goals, [str(number) for number in range(len(goals))])


@dataclass(frozen=True)
class Coin:
    """b with the probability `p`, else a, for the whole batch."""

    a: Goal
    b: Goal
    p: Schedule = Constant(0.5)

    def loss(self, batch: Batch) -> Tensor:
        side = self.b if _draw(batch, "coin") < self.p.at(batch.epoch) else self.a
        return side.loss(batch.within("coin"))


@dataclass(frozen=True)
class DProb:
    """One of several goals for the whole batch, each as probable as its share of the weights."""

    parts: Parts

    def loss(self, batch: Batch) -> Tensor:
        weights, goals = zip(*self.parts, strict=True)
        ends = list(accumulate(shares(weights, batch.epoch)))
        # Of the last sum, which rounding may leave just under 1, so that a goal without weight is never taken.
        chosen: Goal = goals[bisect_right(ends, _draw(batch, "one") * ends[-1])]
        return chosen.loss(batch.within("one"))


@dataclass(frozen=True)
class Until:
    """The goal `a` up to that epoch and then `b`, whose own time begins there."""

    epoch: float
    a: Goal
    b: Goal

    def loss(self, batch: Batch) -> Tensor:
        return self.a.loss(batch) if batch.epoch < self.epoch else self.b.loss(batch.later(self.epoch))


def shares(weights: Sequence[Schedule], epoch: float) -> list[float]:
    """The weights at that time, made to sum to 1. Raises `CasemateError` where all are 0."""
    now = [max(weight.at(epoch), 0.0) for weight in weights]
    if not sum(now) > 0:
        raise CasemateError(f"no goal of a mixture has a weight above 0 at epoch {epoch:g}")
    return [weight / sum(now) for weight in now]


def _mean(batch: Batch, weights: Sequence[float], goals: Sequence[Goal], names: Sequence[str]) -> Tensor:
    parts = [
        weight * goal.loss(batch.within(name))
        for weight, goal, name in zip(weights, goals, names, strict=True)
        if weight > 0
    ]
    return torch.stack(parts).sum()


def _draw(batch: Batch, name: str) -> float:
    # Of the number of the step, so that every process takes the same side, and of where in the formula it is asked.
    keys = rng.fold(rng.image_keys(0, torch.tensor([batch.step.number])), name, batch.path)
    return float(rng.uniform(keys, ()))
