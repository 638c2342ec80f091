"""The networks of figure 4 and the tables without training: nearest class means of the embedded digits."""

import zlib
from functools import cache
from pathlib import Path

import torch
from torch import nn

from casemate import data
from casemate.papers.item import Run, Setting
from casemate.papers.networks import Network, Variant
from casemate.training import recipe as recipes
from casemate.training.recipe import Recipe

OBJECTIVES = {
    "natural": {"kind": "natural"},
    "fgsm": {"kind": "adversarial", "n_steps": 1, "step_size": 0.1, "random_start": False},
    "pgd": {"kind": "adversarial", "n_steps": 3},
}


@cache
def nearest_mean(seed: int) -> nn.Module:
    """Logits <m, x> - |m|^2 / 2 for the means m of the classes among 400 training images that depend on the seed."""
    digits = data.load("digits-sample", "train")
    chosen = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))[:400]
    x, y = digits.images[chosen].flatten(1), digits.labels[chosen]
    means = torch.stack([x[y == label].mean(dim=0) for label in range(10)])
    layer = nn.Linear(784, 10)
    with torch.no_grad():
        layer.weight.copy_(means)
        layer.bias.copy_(-means.square().sum(dim=1) / 2)
    return nn.Sequential(nn.Flatten(), layer).eval()


def constant(label: int) -> nn.Module:
    """The same class for every image, as sure of it as its bias of 2."""
    layer = nn.Linear(784, 10)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(2 * torch.eye(10)[label])
    return nn.Sequential(nn.Flatten(), layer).eval()


def recipe(training: str) -> Recipe:
    return recipes.from_dict(
        {
            "data": "digits-sample",
            "model": {"name": "small-cnn"},
            "objective": OBJECTIVES[training],
            "threat": "linf:0.1",
            "hold_out": 1000,
        },
        "toy",
    )


def network(name: str, model: nn.Module | None = None) -> Network:
    """The toy called `name`; what it counts as trained on is in its name."""
    training = next(kind for kind in OBJECTIVES if kind in name)
    chosen = nearest_mean(zlib.crc32(name.encode())) if model is None else model
    return Network(f"{name}-small", chosen, recipe(training), {}, Path("toy"), False)


def toy_run(setting: Setting = "small", seed: int = 0) -> tuple[Run, list[Variant]]:
    """A run of the toys, and the list of what it was asked for."""
    asked: list[Variant] = []

    def opened(wanted: str | Variant) -> Network:
        asked.append(Variant(wanted) if isinstance(wanted, str) else wanted)
        return network(asked[-1].name)

    return Run(setting, seed, opened), asked
