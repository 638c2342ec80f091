"""Classifiers that need no training, images for them, and attacks that keep or break their word."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from casemate import rng
from casemate.attacks import FGSM, PGD, MultiTarget
from casemate.audit import Stage, Store
from casemate.data import Dataset
from casemate.threat import Linf

THREAT = Linf(0.015)
STAGES = (
    Stage("FGSM", FGSM()),
    Stage("PGD-5", PGD(n_steps=5)),
    Stage("targets", MultiTarget(PGD(n_steps=5, loss="margin"), 3)),
)


def images(n: int, side: int = 6, seed: int = 0) -> torch.Tensor:
    """Away from 0 and 1 by 0.3, so that the box is no hindrance to an attack of eps up to 0.3."""
    generator = torch.Generator().manual_seed(seed)
    return 0.3 + 0.4 * torch.rand(n, 1, side, side, generator=generator)


def dataset(model: nn.Module, n: int = 40, n_classes: int = 4, side: int = 6) -> Dataset:
    """Labelled as `model` says, but for every ninth image, which is labelled wrongly."""
    x = images(n, side)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    y[::9] = (y[::9] + 1) % n_classes
    return Dataset("toys", "test", x, y, tuple(str(name) for name in range(n_classes)))


def linear(n_classes: int = 4, side: int = 6) -> nn.Module:
    """Logits W x + b, with b such that the classes are balanced on `images`."""
    torch.manual_seed(1)
    layer = nn.Linear(side * side, n_classes)
    with torch.no_grad():
        layer.bias.copy_(-layer(images(200, side).flatten(1)).mean(dim=0) + layer.bias)
    return nn.Sequential(nn.Flatten(), layer)


def convolutional(n_classes: int = 4) -> nn.Module:
    torch.manual_seed(2)
    layers = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, n_classes)
    )
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias.sub_(layers(images(200)).mean(dim=0))
        last.weight.mul_(3)
        last.bias.mul_(3)
    return layers.eval()


class Noise(nn.Module):
    """Adds noise drawn anew for each image; says so, as the engine asks of a randomised layer."""

    stochastic = True

    def forward(self, x):
        return x + 0.05 * rng.normal(rng.layer_keys(x, "noise"), x.shape[1:])


@dataclass(frozen=True)
class Moves:
    """Adds `by` to every value of every image: honest where that is inside the threat model."""

    by: float

    def __call__(self, model, x, y, threat, *, keys):
        return x + self.by


@dataclass(frozen=True)
class Returns:
    """Returns whatever `make` makes of the images."""

    make: object

    def __call__(self, model, x, y, threat, *, keys):
        return self.make(x)


def assert_same_run(run: Path, other: Path) -> None:
    """The same verdicts, bit for bit, and the same evidence."""
    assert Store(run).verdicts().equals(Store(other).verdicts())
    assert Store(run).evidence().equals(Store(other).evidence())
