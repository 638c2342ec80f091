"""Standard AutoAttack and Casemate's `standard` cascade on one network: what each leaves standing, in what time.

Both see the same images of the test set in one process. AutoAttack (Croce & Hein 2020) is the authors' own code.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import contenders, record, tables
from benchmarks.measure import tell, timed
from casemate import checkpoint, data
from casemate.audit import presets
from casemate.audit.cascade import Stage, in_turn
from casemate.audit.refusals import refuse_unfit, settle_search
from casemate.audit.statistics import clopper_pearson
from casemate.data import Dataset
from casemate.gradients import Engine
from casemate.threat import NORMS, Threat, parse

NAME = "autoattack"
NORM_NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}

Stages = list[dict[str, Any]]


def main() -> None:
    parser = record.options(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder of a robust network")
    parser.add_argument("--data", help="that of the checkpoint's card if left out")
    parser.add_argument("--threat", help="that of the checkpoint's card if left out")
    parser.add_argument("--preset", choices=list(presets.PRESETS), default="standard", help="Casemate's cascade")
    parser.add_argument("--batch-size", type=int, default=250, help="images that AutoAttack takes at a time")
    arguments = parser.parse_args()
    record.run(f"{NAME}_{arguments.model.name}", arguments, lambda: _measure(arguments), tables.autoattack_table)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    contenders.imported("pyautoattack", "pyautoattack")
    model, card = checkpoint.load(arguments.model)
    threat = parse(arguments.threat or card["threat"])
    images = data.load(arguments.data or card["data"]["name"], "test", limit=arguments.n)
    rounds = []
    for number in range(arguments.repeats):
        seed = arguments.seed + number
        sides = {
            "casemate": lambda seed=seed: list(_casemate(model, images, threat, arguments.preset, seed)),
            "autoattack": lambda seed=seed: list(_autoattack(model, images, threat, arguments.batch_size, seed)),
        }
        # Each round begins with the other, as whoever comes second finds caches warm.
        names = list(sides) if number % 2 == 0 else list(sides)[::-1]
        found = {name: sides[name]() for name in names}
        rounds.append({"seed": seed, **{name: _summary(found[name]) for name in sides}, **_apart(found)})
        ours, theirs = (rounds[-1][name] for name in sides)
        tell(f"seed {seed}: {ours['attacked']} in {ours['wall']:.0f} s, {theirs['attacked']} in {theirs['wall']:.0f} s")
    return {
        "network": arguments.model.name,
        "data": images.name,
        "threat": str(threat),
        "preset": arguments.preset,
        "n": len(images),
        "rounds": rounds,
    }


def _casemate(model: nn.Module, images: Dataset, threat: Threat, preset: str, seed: int) -> Iterator[dict[str, Any]]:
    def begin() -> tuple[Sequence[Stage], Iterator[Tensor], Tensor]:
        engine = Engine(model)
        stages = presets.by_name(preset)(threat, refuse_unfit(engine, images))
        settle_search(engine, images)
        standing = in_turn(engine, images.images, images.labels, threat, stages, seed)
        return stages, standing, next(standing)

    begun = timed(begin)
    stages, standing, clean = begun.result
    yield _stage("clean", clean, begun.wall, begun.cpu)
    for stage in stages:
        step = timed(lambda: next(standing))
        yield _stage(stage.name, step.result, step.wall, step.cpu)


def _autoattack(model: nn.Module, images: Dataset, threat: Threat, batch: int, seed: int) -> Iterator[dict[str, Any]]:
    """The attacks of its standard version, one call each on what those before left, as its own cascade has it."""
    library = contenders.imported("pyautoattack", "pyautoattack")
    norm = next(name for name, kind in NORMS.items() if isinstance(threat, kind))
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    torch.manual_seed(seed)
    peer = library.AutoAttack(model.eval(), norm=NORM_NAMES[norm], eps=threat.eps, seed=seed, version="standard")
    x, y = images.images, images.labels
    with torch.no_grad():
        clean = timed(lambda: torch.cat([model(part).argmax(dim=1) for part in x.split(batch)]) == y)
    standing = clean.result
    yield _stage("clean", standing, clean.wall, clean.cpu)
    for attack in list(peer.attacks_to_run):
        peer.attacks_to_run = [attack]
        at = standing.nonzero().squeeze(1)
        if len(at):
            step = timed(lambda at=at: peer.run_standard_evaluation(x[at], y[at], batch_size=batch))
            # What its own pass in its own batches called broken; ours would do so too but for rounding.
            standing = standing.index_fill(0, at[step.result[1] != y[at]], False)
            yield _stage(attack, standing, step.wall, step.cpu)
    for parameter in frozen:
        parameter.requires_grad_(True)


def _stage(name: str, standing: Tensor, wall: float, cpu: float) -> dict[str, Any]:
    tell(f"  {name}: {int(standing.sum())} stand, {wall:.1f} s")
    return {"name": name, "standing": standing.clone(), "wall": wall, "cpu": cpu}


def _summary(stages: Stages) -> dict[str, Any]:
    n, attacked = len(stages[0]["standing"]), int(stages[-1]["standing"].sum())
    return {
        "clean": int(stages[0]["standing"].sum()),
        "attacked": attacked,
        "interval": list(clopper_pearson(attacked, n)),
        "wall": sum(stage["wall"] for stage in stages),
        "cpu": sum(stage["cpu"] for stage in stages),
        "stages": [
            {
                "name": stage["name"],
                "stand": int(stage["standing"].sum()),
                "wall": round(stage["wall"], 2),
                "cpu": round(stage["cpu"], 2),
            }
            for stage in stages
        ],
    }


def _apart(found: dict[str, Stages]) -> dict[str, Any]:
    """The images that only one of the two broke."""
    ours, theirs = (found[name][-1]["standing"] for name in ("casemate", "autoattack"))
    return {
        "only_casemate": (theirs & ~ours).nonzero().squeeze(1).tolist(),
        "only_autoattack": (ours & ~theirs).nonzero().squeeze(1).tolist(),
    }


if __name__ == "__main__":
    main()
