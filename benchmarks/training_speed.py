"""PGD-7 adversarial training of network A: Casemate, a plain PyTorch loop and ART's Madry trainer, equal in every step.

Time is taken over --steps batches and extrapolated to an epoch. Then each contender trains a smaller network for
--train-steps batches, and one and the same attack judges them.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import contenders, plot, record, tables
from benchmarks.measure import Timed, interleaved, summary, timed
from casemate import PGD, Linf, checkpoint, data, models
from casemate.attacks import evaluate

NAME = "training_speed"
HELD_OUT = 1000


@dataclass(frozen=True)
class Plan:
    """What every contender trains: the same network and start, batch size, optimiser and inner search."""

    scale: int
    steps: int
    eps: float
    seed: int
    n_steps: int = 7
    batch_size: int = 100
    lr: float = 1e-3

    @property
    def step_size(self) -> float:
        return 2.5 * self.eps / self.n_steps

    def start(self) -> nn.Module:
        torch.manual_seed(self.seed)
        return models.build("madry-mnist", scale=self.scale, init="pytorch")


Trainer = Callable[[Plan, Tensor, Tensor], Timed[nn.Module]]


def casemate(plan: Plan, images: Tensor, labels: Tensor) -> Timed[nn.Module]:
    """`casemate train` as it is, its log and its saves included; not its start-up and its check at the end."""
    content = {
        "data": "mnist",
        "model": {"name": "madry-mnist", "arguments": {"scale": plan.scale, "init": "pytorch"}},
        "objective": {"kind": "adversarial", "n_steps": plan.n_steps, "step_size": plan.step_size},
        "threat": f"linf:{plan.eps}",
        "optimiser": {"kind": "adam", "lr": plan.lr, "schedule": "constant"},
        "epochs": plan.steps / ((len(images) - HELD_OUT) // plan.batch_size),
        "batch_size": plan.batch_size,
        "hold_out": HELD_OUT,
        "seed": plan.seed,
    }
    with tempfile.TemporaryDirectory() as parent:
        recipe, folder = Path(parent) / "recipe.yaml", Path(parent) / "run"
        # JSON is YAML too.
        recipe.write_text(json.dumps(content))
        # In a process of its own, as a user runs it: the command line sets how its process keeps memory.
        command = (sys.executable, "-m", "casemate.cli", "train", str(recipe), "--out", str(folder), "--json")
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **threads})
        model, card = checkpoint.load(folder)
    assert card["steps"] == plan.steps
    return Timed(model, card["seconds"], card["cpu_seconds"])


def plain(plan: Plan, images: Tensor, labels: Tensor) -> Timed[nn.Module]:
    """The loop as tutorials write it: `backward` in the inner search too, which also finds the weights' gradients."""
    model = plan.start()
    optimiser = torch.optim.Adam(model.parameters(), lr=plan.lr)
    loader = DataLoader(TensorDataset(images, labels), batch_size=plan.batch_size, shuffle=True)

    def run() -> nn.Module:
        for x, y in itertools.islice(loader, plan.steps):
            x_adv = (x + torch.empty_like(x).uniform_(-plan.eps, plan.eps)).clamp(0, 1)
            for _ in range(plan.n_steps):
                x_adv = x_adv.detach().requires_grad_(True)
                F.cross_entropy(model(x_adv), y).backward()
                assert x_adv.grad is not None
                moved = x_adv.detach() + plan.step_size * x_adv.grad.sign()
                x_adv = torch.max(torch.min(moved, x + plan.eps), x - plan.eps).clamp(0, 1)
            loss = F.cross_entropy(model(x_adv), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return model

    return timed(run)


def art(plan: Plan, images: Tensor, labels: Tensor) -> Timed[nn.Module]:
    model = plan.start()
    search = contenders.Search(plan.eps, plan.step_size, plan.n_steps)
    trainer = contenders.art_trainer(model, search, lr=plan.lr, batch_size=plan.batch_size)
    np.random.seed(plan.seed)
    at = torch.randperm(len(images), generator=torch.Generator().manual_seed(plan.seed))[: plan.steps * plan.batch_size]
    x, y = images[at].numpy(), labels[at].numpy()

    def run() -> nn.Module:
        trainer.fit(x, y, nb_epochs=1)
        return model

    return timed(run)


TRAINERS: dict[str, Trainer] = {"casemate": casemate, "plain PyTorch": plain, "art": art}


def main() -> None:
    parser = record.options(__doc__)
    parser.add_argument("--steps", type=int, default=100, help="batches of 100 that are timed in each round")
    parser.add_argument("--eps", type=float, default=0.3, help="linf budget")
    parser.add_argument("--train-steps", type=int, default=590, help="batches of the training that is judged")
    parser.add_argument("--train-scale", type=int, default=4, help="scale of the network that is judged")
    arguments = parser.parse_args()
    record.run(NAME, arguments, lambda: _measure(arguments), tables.training_table)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    contenders.refuse_missing()
    dataset = data.load("mnist", "train")
    images, labels = dataset.images, dataset.labels
    plan = Plan(scale=16, steps=arguments.steps, eps=arguments.eps, seed=arguments.seed)
    judged = replace(plan, scale=arguments.train_scale, steps=arguments.train_steps)
    runs = interleaved(
        {name: partial(trainer, plan, images, labels) for name, trainer in TRAINERS.items()}, arguments.repeats
    )
    trained = interleaved({name: partial(trainer, judged, images, labels) for name, trainer in TRAINERS.items()}, 1)
    rows = []
    for name in TRAINERS:
        seconds = summary([run.result for run in runs[name]])
        accuracies = _judge(trained[name][0].result.result, arguments)
        rows.append({"name": name, **seconds, **accuracies})
    for row in rows:
        row["wall_multiple"] = row["wall"] / rows[0]["wall"]
        row["cpu_multiple"] = row["cpu"] / rows[0]["cpu"]
    plot.multiples(rows, "PGD-7 training, multiples of Casemate's time", arguments.output / f"{NAME}.svg")
    return {
        "network": "Madry's network A",
        "plan": asdict(plan),
        "judged": asdict(judged),
        "steps": plan.steps,
        "steps_per_epoch": len(images) // plan.batch_size,
        "n": arguments.n,
        "rows": rows,
    }


def _judge(model: nn.Module, arguments: argparse.Namespace) -> dict[str, float]:
    test = data.load("mnist", "test", limit=arguments.n)
    attack = PGD(n_steps=40, loss="margin")
    outcome = evaluate(model.eval(), test.images, test.labels, Linf(arguments.eps), attack, seed=arguments.seed)
    return {"clean_accuracy": outcome.clean_accuracy, "attacked_accuracy": outcome.attacked_accuracy}


if __name__ == "__main__":
    main()
