"""The nouns of a reproduction: a paper, its items, how one is asked for, and what it comes to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
from matplotlib.figure import Figure

from casemate.papers.networks import Network, Variant

# "full" is the paper's own setting, "small" one that finishes in minutes on 2 cores and says so on its figures.
Setting = Literal["small", "full"]

# Told how much is done of how much, and what is going on.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Row:
    """What the paper printed, or claimed where it printed no number, beside what was measured here."""

    item: str
    published: str
    ours: str
    note: str = ""


@dataclass(frozen=True, eq=False)
class Run:
    """One making of an item.

    `network` opens one of the paper's networks, by the name of its recipe or as a variant of one, in the form of the
    setting, and trains it first where it has not been; `seed` seeds every random choice of the item.
    """

    setting: Setting
    seed: int
    network: Callable[[str | Variant], Network]
    progress: Progress = lambda done, total, note: None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an item comes to. The figures and frames have names, which become those of their files.

    The rows and the figures are computed from the frames, so that a reader of the files can do it again.
    """

    figures: Mapping[str, Figure]
    data: Mapping[str, pl.DataFrame]
    rows: tuple[Row, ...]
    networks: tuple[Network, ...]


@dataclass(frozen=True)
class Item:
    """A figure or table of a paper: what it shows, where it stands there, how long it takes here, and how it is made.

    `times` are estimates, as text, for 2 cores and without the training of the networks.
    """

    name: str
    title: str
    where: str
    times: Mapping[Setting, str]
    make: Callable[[Run], Outcome]


@dataclass(frozen=True)
class Paper:
    """A paper, the folder of its recipes and its items in the order of the paper."""

    name: str
    title: str
    recipes: Path
    items: tuple[Item, ...]
