"""Where APGD stands with each image, and what its paths in the different norms have in common."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from casemate import rng
from casemate.attacks.direction import or_random
from casemate.losses import Values
from casemate.threat import Images, Threat

SomeThreat = TypeVar("SomeThreat", bound=Threat)


class Path(ABC, Generic[SomeThreat]):
    """A walk from a `start` [n, C, H, W] for each image `x`: now at `x_adv`, whose loss is not known yet.

    `best` is the point of largest loss so far, with its gradient. Every tensor of a path has one entry for each image.
    """

    def __init__(self, x: Images, threat: SomeThreat, start: Images) -> None:
        self.x, self.threat = x, threat
        self.x_adv = start
        self.forget()

    @property
    def judged(self) -> bool:
        """Whether `x_adv` is inside the threat model; a path may go about outside at first."""
        return True

    def forget(self) -> None:
        """Start again from `x_adv`, with no best point."""
        self.best, self.best_gradient = self.x_adv, torch.zeros_like(self.x)
        self.best_loss = self.x.new_full((len(self.x),), -torch.inf)

    def keep(self, still: Bool[Tensor, "images"]) -> None:
        """Go on with these images alone."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[still])

    def move(self, loss: Values, gradient: Images, keys: rng.Keys) -> None:
        """One step on, now that the loss [n] and its gradient at `x_adv` are known."""
        better = loss > self.best_loss
        self.best_loss = torch.maximum(loss, self.best_loss)
        self.best = torch.where(each(better), self.x_adv, self.best)
        self.best_gradient = torch.where(each(better), gradient, self.best_gradient)
        back = self.check(loss)
        x_adv = self.x_adv
        if back is not None:
            x_adv = torch.where(each(back), self.best, x_adv)
            gradient = torch.where(each(back), self.best_gradient, gradient)
        self.step(x_adv, or_random(gradient, keys))

    @abstractmethod
    def check(self, loss: Values) -> Bool[Tensor, "images"] | None:
        """Note the loss at `x_adv`; at a checkpoint set the step sizes, and say who goes on from the best point."""

    @abstractmethod
    def step(self, x_adv: Images, gradient: Images) -> None:
        """Set `x_adv` to the point after this one."""


def each(values: Float[Tensor, "images"] | Bool[Tensor, "images"]) -> Tensor:
    """One value an image, to go with images."""
    return values.view(-1, 1, 1, 1)
