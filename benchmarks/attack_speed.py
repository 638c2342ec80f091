"""The comparison that `pgd_speed` and `active_set` share: one search by every library on the same images."""

import itertools
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import contenders
from benchmarks.contenders import Attack, Search
from benchmarks.measure import Timed, interleaved, summary, tell, timed
from casemate import Linf
from casemate.gradients import Engine

SMALL_BATCH = 100
TRIAL_STEPS = 4


def compare(model: nn.Module, x: Tensor, y: Tensor, search: Search, *, repeats: int, seed: int) -> dict[str, Any]:
    """Every contender in turn, each peer handed the images in the way that its trial showed to be fastest.

    The unit is the wall time of the bare gradients on all images at once.
    """
    model.requires_grad_(False)
    trials = _trials(model, x, y, search, seed)
    handed = {peer: _fastest(trials[peer]) for peer in contenders.PEERS}
    entrants: dict[str, Attack] = {
        "bare": contenders.bare(model, search),
        f"bare, {SMALL_BATCH} at a time": contenders.in_batches(contenders.bare(model, search), SMALL_BATCH),
        "casemate": contenders.casemate(model, search, seed=seed),
    }
    for peer, build in contenders.PEERS.items():
        entrants[peer] = _in_way(build(model, search), handed[peer])
    found = interleaved({name: partial(_seeded, attack, seed, x, y) for name, attack in entrants.items()}, repeats)
    unit = summary(found["bare"])
    return {
        "n": len(x),
        "search": asdict(search),
        "clean_accuracy": _accuracy(model, x, x, y),
        "trial_steps": TRIAL_STEPS,
        "trials": trials,
        "rows": [
            {"name": name, "handed": handed.get(name, ""), **_row(model, x, y, search, runs, unit)}
            for name, runs in found.items()
        ],
    }


def _trials(model: nn.Module, x: Tensor, y: Tensor, search: Search, seed: int) -> dict[str, dict[str, Any]]:
    """A few steps of each peer, and the bare gradients, in each way a user might hand the images over.

    A "trainable" network is one whose weights nobody froze: a library that calls `backward` then computes their
    gradients too.
    """
    short = replace(search, n_steps=TRIAL_STEPS)
    found: dict[str, dict[str, Any]] = {}
    for name, build in {"bare": contenders.bare, **contenders.PEERS}.items():
        attack = build(model, short)
        for size, weights in itertools.product(("all", SMALL_BATCH), ("frozen", "trainable")):
            way = f"{size} at a time, {weights}"
            model.requires_grad_(weights == "trainable")
            one = min((timed(partial(_seeded, _in_way(attack, way), seed, x, y)) for _ in range(2)), key=_cpu)
            tell(f"trial: {name}, {way}: {one.wall:.2f} s")
            found.setdefault(name, {})[way] = {"wall": round(one.wall, 4), "cpu": round(one.cpu, 4)}
    model.requires_grad_(False)
    return found


def _fastest(ways: dict[str, dict[str, float]]) -> str:
    # By CPU time, which other work on the machine disturbs less.
    return min((way for way in ways if way.endswith("frozen")), key=lambda way: ways[way]["cpu"])


def _in_way(attack: Attack, way: str) -> Attack:
    return contenders.in_batches(attack, SMALL_BATCH) if way.startswith(str(SMALL_BATCH)) else attack


def _seeded(attack: Attack, seed: int, x: Tensor, y: Tensor) -> Tensor:
    torch.manual_seed(seed)
    return attack(x, y)


def _cpu(one: Timed[Any]) -> float:
    return one.cpu


def _row(
    model: nn.Module, x: Tensor, y: Tensor, search: Search, runs: list[Timed[Tensor]], unit: dict[str, Any]
) -> dict[str, Any]:
    seconds, x_adv = summary(runs), runs[-1].result
    return {
        **seconds,
        "wall_multiple": seconds["wall"] / unit["wall"],
        "cpu_multiple": seconds["cpu"] / unit["cpu"],
        "attacked_accuracy": _accuracy(model, x_adv, x, y),
        "outside": int((~Linf(search.eps).contains(x_adv, x)).sum()),
    }


def _accuracy(model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor) -> float:
    """The share of images that are right both before and after; all contenders are judged by the same code."""
    engine = Engine(model)
    right = [engine.logits(images).argmax(dim=1) == y for images in (x, x_adv)]
    return float((right[0] & right[1]).double().mean())
