"""What a benchmark leaves behind: one JSON file with every figure and all that is needed to repeat it."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from casemate import files
from casemate.errors import CasemateError
from casemate.papers.machine import machine

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "casemate",
    "torch",
    "torchattacks",
    "foolbox",
    "cleverhans",
    "adversarial-robustness-toolbox",
    "pyautoattack",
)

Row = dict[str, Any]


def options(description: str | None) -> argparse.ArgumentParser:
    """What every program takes."""
    parser = argparse.ArgumentParser(
        description=(description or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1000, help="images of the test set")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the median of each contender counts")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and random starts")
    parser.add_argument("--json", action="store_true", help="print the results as JSON rather than as a table")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON file and the plot")
    return parser


def run(name: str, arguments: argparse.Namespace, measure: Callable[[], Row], show: Callable[[Row], str]) -> None:
    """Measure, write `name`.json and print; a mistake of the user's is one sentence and exit status 2."""
    torch.set_num_threads(arguments.threads)
    begun, load = datetime.datetime.now(datetime.UTC), os.getloadavg()[0]
    try:
        measured = measure()
        seconds = (datetime.datetime.now(datetime.UTC) - begun).total_seconds()
        result = {
            "benchmark": name,
            "command": f"python -m benchmarks.{Path(sys.argv[0]).stem} {' '.join(sys.argv[1:])}".rstrip(),
            "date": begun.date().isoformat(),
            "seconds": round(seconds),
            "load_before": round(load, 2),
            "machine": machine(torch.device("cpu")),
            "versions": versions(),
            "seed": arguments.seed,
            "threads": arguments.threads,
            "repeats": arguments.repeats,
            **measured,
        }
        arguments.output.mkdir(parents=True, exist_ok=True)
        files.write_json(arguments.output / f"{name}.json", result)
    except CasemateError as error:
        sys.exit(_refusal(str(error)))
    print(json.dumps(result, indent=2) if arguments.json else show(result))


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def _refusal(sentence: str) -> int:
    print(f"Error: {sentence}", file=sys.stderr)
    return 2
