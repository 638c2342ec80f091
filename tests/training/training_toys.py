"""Small things to train: recipes that take a second, models whose worst case is known, and a process to be killed."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from casemate import models
from casemate.gradients import Engine
from casemate.rng import image_keys
from casemate.training import recipe as recipes
from casemate.training import train as training
from casemate.training.objective import Step
from casemate.training.recipe import Recipe

QUICK: dict[str, Any] = {
    "data": "digits-sample",
    "model": {"name": "small-cnn", "arguments": {"width": 4}},
    "objective": {"kind": "natural"},
    "threat": "linf:0.1",
    "epochs": 2,
    "batch_size": 50,
    "hold_out": 3500,
    "check": {"n": 50, "n_steps": 2},
}


def quick(**entries: Any) -> Recipe:
    """10 steps an epoch on 500 digits."""
    return recipes.from_dict(QUICK | entries, "quick")


def linear(weights: Tensor) -> nn.Sequential:
    """Two classes; the logit of class 1 less that of class 0 is <weights, x>."""
    layer = nn.Linear(weights.numel(), 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros_like(weights), weights]))
    return nn.Sequential(nn.Flatten(), layer)


def step_for(model: nn.Module, n: int, *, progress: float = 0.5, number: int = 7) -> Step:
    return Step(number, progress, image_keys(number, torch.arange(n)), Engine(model))


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The log without its times."""
    rows = [json.loads(line) for line in (folder / training.LOG).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def with_dropout() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))


def train_in_this_process(content: dict[str, Any], folder: str, save_every: float, devices: int = 1) -> None:
    """For a process that is to be killed: trains, or goes on, saving the state that often."""
    torch.set_num_threads(1)
    training.SAVE_EVERY_SECONDS = save_every
    models.ARCHITECTURES["with-dropout"] = with_dropout
    settings = training.Settings(devices, "cpu", resume=True)
    training.train(recipes.from_dict(content, "quick"), Path(folder), settings)
