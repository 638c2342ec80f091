"""MNIST, linf 0.3: seconds from random weights to 89% under the `standard` cascade; --repeats seeds, from --seed on.

Casemate by recipes, Fast-AT (Wong et al. 2020) with its published settings, and ART's trainer for Madry et al. (2018),
whose published schedule takes more than a day here, for a time budget. One and the same judge, whose time does not
count, attacks all networks on the first test images.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from benchmarks import contenders, plot, record, tables, trainers
from benchmarks.judge import judge
from benchmarks.measure import Timed, tell
from casemate import Linf, data
from casemate.data import Dataset
from casemate.errors import CasemateError
from casemate.malloc import keep_freed_memory
from casemate.training.recipe import ModelSettings, Recipe, find

NAME = "speed_run"
THREAT = Linf(0.3)
GOAL = 0.89
DATA = ("mnist", "digits-sample")
NETWORK_A = ModelSettings(name="madry-mnist")
LEAST_BUDGET = 900.0

# From a seed to the network, once or several times as it trains.
Trainer = Callable[[int], Iterator[Timed[nn.Module]]]
Run = dict[str, Any]


def main() -> None:
    parser = record.options(__doc__)
    parser.add_argument("--recipe", nargs="+", default=["mnist-speed"], help="Casemate's recipes, by name or path")
    parser.add_argument("--fast-epochs", type=int, default=10, help="epochs of Fast-AT")
    parser.add_argument("--network-a", action="store_true", help="ART on network A, not that of the first recipe")
    parser.add_argument(
        "--budget-seconds", type=float, help="of ART; 3 times the median of the slowest recipe or 900 if left out"
    )
    parser.add_argument("--points", type=int, default=6, help="times that ART is judged")
    arguments = parser.parse_args()
    record.run(NAME, arguments, lambda: _measure(arguments), tables.speed_table)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    contenders.imported("art.defences.trainer", "adversarial-robustness-toolbox")
    recipes = _recipes(arguments.recipe)
    first = next(iter(recipes.values()))
    train, test = data.load(first.data, "train"), data.load(first.data, "test", limit=arguments.n)
    # The command line does so for Casemate; the peers are to have it too.
    keep_freed_memory()
    seeds = range(arguments.seed, arguments.seed + arguments.repeats)
    ours: dict[str, Trainer] = {
        f"casemate, {name}": partial(trainers.casemate, recipe) for name, recipe in recipes.items()
    }
    fast = partial(trainers.fast_at, train, arguments.fast_epochs)
    runs = _race({**ours, "fast-at": fast}, seeds, test, arguments.seed)
    budget = arguments.budget_seconds or max(LEAST_BUDGET, 3 * max(_medians(runs[name])["wall"] for name in ours))
    network = NETWORK_A if arguments.network_a else first.model
    art = partial(trainers.art, network, train, budget, arguments.points)
    runs |= _race({"art": art}, seeds, test, arguments.seed)
    rows = [{"name": name, **_medians(found), "runs": found} for name, found in runs.items()]
    plot.against_time(rows, GOAL, f"{first.data}, {THREAT}, standard cascade", arguments.output / f"{NAME}.svg")
    return {
        "network": _networks({**{name: recipe.model for name, recipe in recipes.items()}, "art": network}),
        "recipes": {name: recipe.model_dump(mode="json") for name, recipe in recipes.items()},
        "fast_epochs": arguments.fast_epochs,
        "budget": budget,
        "data": first.data,
        "threat": str(THREAT),
        "goal": GOAL,
        "n": len(test),
        "rows": rows,
    }


def _race(
    entrants: Mapping[str, Trainer], seeds: Sequence[int], test: Dataset, judge_seed: int
) -> dict[str, list[Run]]:
    """Every contender in turn with each seed, and the judgement of every network that it yields."""
    found: dict[str, list[Run]] = {name: [] for name in entrants}
    for seed in seeds:
        for name, trainer in entrants.items():
            points = []
            for trained in trainer(seed):
                judgement = judge(trained.result, test, THREAT, seed=judge_seed)
                points.append({"wall": trained.wall, "cpu": trained.cpu, **judgement})
                tell(f"seed {seed}: {name}, {points[-1]['attacked_accuracy']:.1%} after {trained.wall:.1f} s")
            reached = next((point["wall"] for point in points if point["attacked_accuracy"] >= GOAL), None)
            found[name].append({"seed": seed, "reached": reached, "points": points})
    return found


def _recipes(names: Sequence[str]) -> dict[str, Recipe]:
    recipes = {name: find(name) for name in names}
    for name, recipe in recipes.items():
        if recipe.threat != str(THREAT) or recipe.data not in DATA:
            raise CasemateError(
                f"{name} is for {recipe.data}, {recipe.threat}: name recipes for {THREAT} on {' or '.join(DATA)}"
            )
    if len({recipe.data for recipe in recipes.values()}) > 1:
        raise CasemateError(f"the recipes {', '.join(names)} differ in their data: name recipes for the same")
    return recipes


def _medians(runs: Sequence[Run]) -> dict[str, float]:
    """Of the seconds until the last point, over the seeds."""
    return {clock: statistics.median(run["points"][-1][clock] for run in runs) for clock in ("wall", "cpu")}


def _networks(networks: Mapping[str, ModelSettings]) -> str:
    return "; ".join(f"{name}: {network.name} {network.arguments or ''}".strip() for name, network in networks.items())


if __name__ == "__main__":
    main()
