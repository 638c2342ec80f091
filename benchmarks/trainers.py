"""The contenders of the speed run: each yields its network, once at the end or several times as it trains.

Their data are in memory and their network is built before the clock starts, and it stands still between two networks.
"""

import contextlib
import io
import itertools
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import contenders
from benchmarks.contenders import Search
from benchmarks.measure import Timed, timed
from casemate import checkpoint, models
from casemate.data import Dataset
from casemate.training import schedule
from casemate.training.recipe import ModelSettings, Recipe
from casemate.training.train import Settings, train

FAST_BATCH_SIZE = 100
FAST_LR = 5e-3
ART_BATCH_SIZE = 50
ART_LR = 1e-4
# Trained in one call: a few seconds of network A, so that ART is stopped soon after it is due to be judged.
ART_PIECE = 4 * ART_BATCH_SIZE


def casemate(recipe: Recipe, seed: int) -> Iterator[Timed[nn.Module]]:
    """`recipe` by `casemate.training.train`, from the first step until the checkpoint is written.

    The card's clock stops at the last step; the last check and the checkpoint come after it. Where `patience` ends the
    training, up to a twentieth of an epoch counts twice.
    """
    wall = cpu = 0.0

    def note(row: Any, total: int) -> None:
        nonlocal wall, cpu
        if row["kind"] == "train":
            wall, cpu = time.perf_counter(), time.process_time()

    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        seeded = recipe.model_copy(update={"seed": seed})
        card = train(seeded, folder, Settings(accelerator="cpu"), observe=note)
        after, cpu_after = time.perf_counter() - wall, time.process_time() - cpu
        model, _ = checkpoint.load(folder)
    yield Timed(model, card["seconds"] + after, card["cpu_seconds"] + cpu_after)


def fast_at(data: Dataset, epochs: int, seed: int) -> Iterator[Timed[nn.Module]]:
    """Wong et al. 2020 (arXiv:2001.03994) on MNIST as published, 10 `epochs`: network, Adam, rate and search."""
    torch.manual_seed(seed)
    model = models.build("fast-at")
    optimiser = torch.optim.Adam(model.parameters())
    n_steps = epochs * len(data) // FAST_BATCH_SIZE

    def run() -> nn.Module:
        for number, at in enumerate(itertools.islice(_shuffled(len(data), FAST_BATCH_SIZE, seed), n_steps), 1):
            optimiser.param_groups[0]["lr"] = FAST_LR * schedule.rate("cyclic", number / n_steps)
            x, y = data.images[at], data.labels[at]
            loss = F.cross_entropy(model(one_step(model, x, y)), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return model.eval()

    yield timed(run)


def one_step(model: nn.Module, x: Tensor, y: Tensor, eps: float = 0.3, step_size: float = 0.375) -> Tensor:
    """Their search, algorithm 3: one step of the sign from a uniform start, back into the ball, then into the box."""
    delta = torch.empty_like(x).uniform_(-eps, eps).requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x + delta), y), delta)
    delta = (delta.detach() + step_size * gradient.sign()).clamp(-eps, eps)
    return (x + delta).clamp(0, 1)


def art(network: ModelSettings, data: Dataset, budget: float, n_points: int, seed: int) -> Iterator[Timed[nn.Module]]:
    """ART's Madry trainer with the paper's search and Adam, after each of `n_points` equal parts of `budget` seconds.

    It is handed the training images in pieces, in a new order in each epoch, and goes on with the same optimiser.
    """
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = models.build(network.name, **network.arguments)
    trainer = contenders.art_trainer(model, Search(), lr=ART_LR, batch_size=ART_BATCH_SIZE)
    pieces = _shuffled(len(data), ART_PIECE, seed)
    wall = cpu = 0.0
    due = 1
    while wall < budget:
        at = next(pieces)
        x, y = data.images[at].numpy(), data.labels[at].numpy()
        # A progress bar for every piece is of no use to anyone.
        with contextlib.redirect_stderr(io.StringIO()):
            piece = timed(partial(trainer.fit, x, y, nb_epochs=1))
        wall, cpu = wall + piece.wall, cpu + piece.cpu
        if wall >= budget * due / n_points:
            yield Timed(model, wall, cpu)
            # A piece longer than a part makes one point of several.
            due = int(wall * n_points / budget) + 1


def _shuffled(n: int, size: int, seed: int) -> Iterator[Tensor]:
    """Positions in a data set of n images, `size` at a time, epoch after epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=generator).split(size)
