"""Classifiers whose answers to an attack are known, and one that counts what it is asked."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from casemate import rng
from casemate.gradients import Engine
from casemate.testing import models

SHAPE = (1, 5, 7)


def keys(n: int, seed: int = 0) -> rng.Keys:
    return rng.image_keys(seed, torch.arange(n))


def zeros(n: int) -> Tensor:
    """Labels of class 0."""
    return torch.zeros(n, dtype=torch.int64)


class Counted(nn.Module):
    """Counts the images it is asked about, with and without a gradient, over all its copies."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.counts = {"gradients": 0, "verdicts": 0}

    def forward(self, x: Tensor) -> Tensor:
        self.counts["gradients" if x.requires_grad else "verdicts"] += len(x)
        return self.model(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Counted":
        other = Counted(copy.deepcopy(self.model, memo))
        other.counts = self.counts
        return other


def at_distances(model: models.Linear, distances: Tensor) -> Tensor:
    """Images of class 0 at these linf distances from the boundary of `model`, whose bias is 0."""
    return 0.5 - distances.view(-1, 1, 1, 1) * model.weight.sign()


class Peak(nn.Module):
    """The margin loss of class 0 is -0.1 - (mean - 0.53)^2: never broken, and most nearly so at grey 0.53."""

    def forward(self, x: Tensor) -> Tensor:
        grey = x.flatten(1).mean(dim=1)
        return torch.stack([0 * grey, -0.1 - (grey - 0.53).square()], dim=1)


class Decoy(nn.Module):
    """Class 1 is close and out of reach; class 2 is further and within reach of linf 0.1."""

    def forward(self, x: Tensor) -> Tensor:
        grey = x.flatten(1).mean(dim=1)
        return torch.stack([0 * grey, 0 * grey - 0.1, 20 * (grey - 0.5) - 1], dim=1)


class Affine(nn.Module):
    """Logits affine in the image, whose distances to a wrong class are known; class 0 is ahead around grey 0.5."""

    weight: Tensor

    def __init__(self, n_classes: int, shape: tuple[int, int, int] = SHAPE, *, ahead: float = 3.0) -> None:
        super().__init__()
        self.register_buffer("weight", rng.normal(keys(n_classes, seed=7), shape).flatten(1))
        self.ahead = ahead

    def forward(self, x: Tensor) -> Tensor:
        logits = (x - 0.5).flatten(1) @ self.weight.T
        logits[:, 0] += self.ahead
        return 5 * logits

    def distances(self, x: Tensor, dual: float) -> Tensor:
        """How far each image is from where class 1, 2, ... overtakes class 0 [n, n_classes - 1].

        In the norm whose dual is the l`dual` norm (2, or 1 for linf), this is a margin divided by the norm of its
        gradient, where the box is not met: asserted for the nearest class.
        """
        normals = (self.weight[1:] - self.weight[0]).double()
        gaps = self.ahead - (x.double() - 0.5).flatten(1) @ normals.T
        distances = gaps / normals.norm(p=dual, dim=1)
        least, nearest = distances.min(dim=1)
        normal = normals[nearest]
        step = normal.sign() if dual == 1 else normal / normal.norm(dim=1, keepdim=True)
        point = x.flatten(1) + least[:, None] * step
        assert ((point > 0) & (point < 1)).all(), "the box is met: the closed form does not hold"
        return distances

    def distance(self, x: Tensor, dual: float) -> Tensor:
        """The least of `distances` [n]."""
        return self.distances(x, dual).min(dim=1).values

    def distance_to_class_of(self, x_adv: Tensor, x: Tensor, dual: float) -> Tensor:
        """That of `distances` for the class each of `x_adv` is in: where a descent may end, nearest class or not."""
        return self.distances(x, dual).gather(1, self(x_adv).argmax(dim=1, keepdim=True) - 1).squeeze(1)


def near_grey(n: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Images with values in [0.45, 0.55]."""
    return 0.45 + 0.1 * models.images(n, shape)


class Hardened(nn.Module):
    """The decisions of a classifier, without what its logits say beyond them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return 10 * nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).float() - 5


class Unmoved(nn.Module):
    """Class 0 for every image, with a gradient all the same."""

    def forward(self, x: Tensor) -> Tensor:
        grey = x.flatten(1).mean(dim=1)
        return torch.stack([5 - grey, grey - 5], dim=1)


class Asked(Engine):
    """An engine that counts the points it is asked about, without the padding of its batches."""

    n_points = 0

    def logits(self, x: Tensor, *, keys: rng.Keys | None = None) -> Tensor:
        self.n_points += len(x)
        return super().logits(x, keys=keys)

    def gradient(self, x: Tensor, *args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
        self.n_points += len(x)
        return super().gradient(x, *args, **settings)
