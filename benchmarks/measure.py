"""Timing contenders side by side, so that a machine busy with something else slows all of them alike."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Timed(Generic[Result]):
    """What one run returned and took: seconds of the wall clock, and of all cores together."""

    result: Result
    wall: float
    cpu: float


def timed(run: Callable[[], Result]) -> Timed[Result]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return Timed(result, time.perf_counter() - wall, time.process_time() - cpu)


def interleaved(contenders: Mapping[str, Callable[[], Result]], repeats: int) -> dict[str, list[Timed[Result]]]:
    """Every contender once in each of `repeats` rounds; each round begins one contender further along."""
    found: dict[str, list[Timed[Result]]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(repeats):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            one = timed(contenders[name])
            tell(f"round {number + 1} of {repeats}: {name} {one.wall:.2f} s")
            found[name].append(one)
    return found


def summary(runs: list[Timed[Any]]) -> dict[str, Any]:
    """Medians and every single figure, for the results file."""
    walls, cpus = [run.wall for run in runs], [run.cpu for run in runs]
    return {
        "wall": statistics.median(walls),
        "cpu": statistics.median(cpus),
        "walls": [round(wall, 4) for wall in walls],
        "cpus": [round(cpu, 4) for cpu in cpus],
    }


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
