"""One item of a paper from its name to its files."""

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from casemate import files
from casemate.errors import CasemateError
from casemate.papers.athalye2018.items import ATHALYE2018
from casemate.papers.gowal2018.items import GOWAL2018
from casemate.papers.item import Item, Paper, Progress, Run, Setting
from casemate.papers.machine import machine, versions
from casemate.papers.madry2018.items import MADRY2018
from casemate.papers.mirman2018.items import MIRMAN2018
from casemate.papers.networks import Networks
from casemate.papers.write import write
from casemate.precision import Precision
from casemate.training.log import Observer

PAPERS: dict[str, Paper] = {paper.name: paper for paper in (MADRY2018, ATHALYE2018, GOWAL2018, MIRMAN2018)}


def recipes() -> dict[str, Path]:
    """The recipes of all papers, as PAPER/NAME-SETTING: those that `casemate train` knows beside the built-in ones."""
    return {
        f"{paper.name}/{path.stem}": path for paper in PAPERS.values() for path in sorted(paper.recipes.glob("*.yaml"))
    }


@dataclass(frozen=True)
class Made:
    """What was made: the folder it is in, and what the JSON file there holds."""

    folder: Path
    record: dict[str, Any]


def find_paper(name: str) -> Paper:
    """Raises `CasemateError` listing the known ones."""
    if name not in PAPERS:
        raise CasemateError(f"there is no paper {name!r}; known are {', '.join(PAPERS)}")
    return PAPERS[name]


def find_item(paper: Paper, name: str) -> Item:
    """Raises `CasemateError` listing the known ones."""
    for item in paper.items:
        if item.name == name:
            return item
    known = ", ".join(item.name for item in paper.items)
    raise CasemateError(f"{paper.name} has no item {name!r}; known are {known}")


def reproduce(
    paper: Paper,
    item: Item,
    *,
    setting: Setting = "small",
    out: Path = Path("runs"),
    networks: Path | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    precision: Precision = "auto",
    command: str = "",
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    training: Observer | None = None,
) -> Made:
    """Make `item` and write it into `out`/PAPER/ITEM-SETTING.

    Its networks are opened from the folder `networks` (`out`/PAPER/networks) or trained into it, on `device` (the CPU);
    `precision` is that of the search then. `say` is told what is trained, `training` how that goes, and `progress` how
    the item itself goes. Raises `CasemateError` for data or a network that cannot be had, and where the folders cannot
    be written.
    """
    device = device or torch.device("cpu")
    opener = Networks(
        paper.recipes,
        networks or out / paper.name / "networks",
        setting,
        seed,
        device,
        precision,
        command,
        say or (lambda text: None),
        training,
    )
    run = Run(setting, seed, opener.open, progress or (lambda done, total, note: None))
    folder = out / paper.name / f"{item.name}-{setting}"
    # Claimed from the start: what cannot be written is known before hours are spent on it.
    with files.claimed(folder):
        begun, start, cpu_start = datetime.datetime.now(datetime.UTC), time.perf_counter(), time.process_time()
        outcome = item.make(run)
        facts = {
            "paper": paper.name,
            "item": item.name,
            "title": item.title,
            "where": item.where,
            "setting": setting,
            "seed": seed,
            "command": command,
            "date": begun.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - start, 2),
            "cpu_seconds": round(time.process_time() - cpu_start, 2),
            "machine": machine(device),
            "versions": versions(),
        }
        return Made(folder, write(outcome, folder, item.name, facts))
