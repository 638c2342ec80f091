"""A small classifier, and the ways to spoil it that the symptoms are for."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casemate import rng
from casemate.audit.symptoms.subject import Subject
from casemate.gradients import Engine
from casemate.testing import models
from casemate.threat import Linf

SHAPE = (1, 8, 8)
N = 24


class Plain(nn.Module):
    """Smooth, with weights large enough that a step within the ball changes answers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = models.seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 4)))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Before(nn.Module):
    """`layer` on the images, then the classifier."""

    def __init__(self, layer: Any, model: nn.Module) -> None:
        super().__init__()
        self.layer, self.model = layer, model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.layer(x))


class After(Before):
    """The classifier, then `layer` on its logits."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.model(x))


class Flip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class Purifier(nn.Module):
    """Two steps of its own towards a smoother image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            for _ in range(2):
                leaf = x.detach().requires_grad_(True)
                (gradient,) = torch.autograd.grad(F.avg_pool2d(leaf, 3, 1, 1).sub(leaf).square().sum(), leaf)
                x = x - 0.01 * gradient
        return self.model(x)


def undeclared_noise(x: Tensor) -> Tensor:
    return x + 0.05 * torch.randn_like(x)


def straight_through(x: Tensor) -> Tensor:
    return x + ((x * 7).round() / 7 - x).detach()


def zero_gradient(x: Tensor) -> Tensor:
    return x.detach() + 0 * x


def subject(model: nn.Module, *, seed: int = 0) -> Subject:
    x = models.images(N, SHAPE)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    keys = rng.image_keys(seed, torch.arange(N))
    return Subject(Engine(model, precision="float32"), x, y, Linf(0.1), keys)
