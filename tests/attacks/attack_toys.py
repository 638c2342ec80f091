"""Classifiers whose answers to an attack are known, and one that counts what it is asked."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from casemate import rng
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
