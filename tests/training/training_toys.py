"""Small things to train: recipes that take a second, models whose worst case is known, and a process to be killed."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from casemate import models
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.rng import image_keys
from casemate.training import recipe as recipes
from casemate.training import train as training
from casemate.training.log import Observer
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


def step_for(model: nn.Module, n: int, *, progress: float = 0.5, number: int = 7, epoch: float = 0.0) -> Step:
    return Step(number, progress, epoch, image_keys(number, torch.arange(n)), Engine(model))


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The log without its times."""
    rows = [json.loads(line) for line in (folder / training.LOG).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def with_norm_and_dropout() -> nn.Sequential:
    """An architecture with running statistics and draws of its own."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(288, 10),
    )


def train_in_this_process(
    content: dict[str, Any], folder: str, save_every: float, devices: int = 1, killed_at: int | None = None
) -> None:
    """For a process that is to be killed, or that kills itself at a step: trains, or goes on, saving that often."""
    torch.set_num_threads(1)
    training.SAVE_EVERY_SECONDS = save_every
    models.ARCHITECTURES["toy"] = with_norm_and_dropout

    def observe(row: Mapping[str, Any], total: int) -> None:
        if row["step"] == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = training.Settings(devices, "cpu", "float32", resume=True)
    training.train(recipes.from_dict(content, "quick"), Path(folder), settings, observe=observe)


def fails_on_the_second(fabric: Any, folder: Path, observe: Observer | None) -> dict[str, Any]:
    """For two processes: they train and compare their running statistics; then one fails while the other waits."""
    models.ARCHITECTURES["toy"] = with_norm_and_dropout
    run = training._Run(
        fabric, quick(model={"name": "toy"}), folder, training.Settings(devices=2, precision="float32"), observe
    )
    run.go(save_every=1e9)
    mine = torch.cat([buffer.flatten().double() for buffer in run.raw.buffers()])
    if not torch.equal(mine, fabric.broadcast(mine)):
        raise CasemateError("the running statistics differ")
    if fabric.global_rank == 1:
        raise CasemateError("the second has had enough")
    fabric.barrier()
    return {}
