"""A step of interval training as a multiple of a natural step of the same network, batch, layout and precision.

One batch of 256 MNIST images: forward, backward and the update by Adam, in the layout that `casemate train` gives the
network. The last column weighs the phases as the built-in recipes do: 2% of the steps natural, 40% while eps grows, the
rest after.
"""

import argparse
import contextlib
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import record
from benchmarks.measure import interleaved, summary
from casemate import data, models, rng
from casemate.gradients import Engine
from casemate.malloc import keep_freed_memory
from casemate.threat import Linf
from casemate.training.interval import IntervalTraining
from casemate.training.layout import laid_out
from casemate.training.natural import Natural
from casemate.training.objective import Objective, Step

NAME = "interval_step"
NETWORKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("gowal-small", {}),
    ("gowal-medium", {}),
    ("gowal-medium", {"norm": True}),
    ("gowal-large", {"width": 16, "norm": True}),
)
BATCH = 256
WARM_UP, RAMP = 0.02, 0.4
# Halfway up and near the end of training.
PHASES = {"ramp": 0.2, "after": 0.9}


def main() -> None:
    # As `casemate train` does.
    keep_freed_memory()
    parser = record.options(__doc__)
    arguments = parser.parse_args()
    record.run(NAME, arguments, lambda: _measure(arguments), _table)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    batch = data.load("mnist", "train", limit=BATCH)
    images = batch.images.contiguous(memory_format=torch.channels_last)
    schedule = {"warm_up": WARM_UP, "ramp": RAMP, "kappa": 0.0, "growth": "smooth", "regulariser": 0.5}
    interval = IntervalTraining(Linf(0.3), **schedule)  # type: ignore[arg-type]
    rows = []
    for name, options in NETWORKS:
        for precision in (torch.float32, torch.bfloat16):
            torch.manual_seed(arguments.seed)
            model = laid_out(models.build(name, init="ibp", **options), images.device).train()
            step = partial(_step, model, torch.optim.Adam(model.parameters(), 1e-4), images, batch.labels, precision)
            contenders = {"natural": partial(step, Natural(), 0.0)}
            contenders |= {phase: partial(step, interval, progress) for phase, progress in PHASES.items()}
            for warmed in contenders.values():
                warmed()
            found = {phase: summary(runs) for phase, runs in interleaved(contenders, arguments.repeats).items()}
            natural, ramp, after = (found[phase]["wall"] for phase in ("natural", *PHASES))
            rows.append(
                {
                    "network": name,
                    "options": options,
                    "precision": str(precision).removeprefix("torch."),
                    "natural_seconds": natural,
                    "ramp": ramp / natural,
                    "after": after / natural,
                    "schedule": WARM_UP + (RAMP * ramp + (1 - WARM_UP - RAMP) * after) / natural,
                    "found": found,
                }
            )
    return {"rows": rows}


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    precision: torch.dtype,
    objective: Objective,
    progress: float,
) -> None:
    mixed = torch.autocast(x.device.type, precision) if precision != torch.float32 else contextlib.nullcontext()
    with mixed:
        keys = rng.image_keys(0, torch.arange(len(x)))
        loss = objective(model, x, y, step=Step(0, progress, 0.0, keys, Engine(model, precision="float32")))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _table(found: dict[str, Any]) -> str:
    lines = [
        "| network | precision | natural step, ms | while eps grows | after | over a recipe |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        options = ", ".join(f"{name} {value}" for name, value in row["options"].items())
        name = f"{row['network']}, {options}" if options else row["network"]
        multiples = " | ".join(f"{row[phase]:.2f}" for phase in (*PHASES, "schedule"))
        lines.append(f"| {name} | {row['precision']} | {1000 * row['natural_seconds']:.0f} | {multiples} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
