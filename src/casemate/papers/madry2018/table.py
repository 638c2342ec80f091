"""What tables 1 and 2 have in common: from their lines to their rows, their figure and their data."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from casemate.papers.evaluation import percent
from casemate.papers.item import Outcome, Row, Run
from casemate.papers.madry2018 import table_figure, transfers
from casemate.papers.madry2018.grid import Line, measured
from casemate.papers.madry2018.pair import DataSet
from casemate.papers.networks import Variant

PART = "attacks"


@dataclass(frozen=True)
class Table:
    """The lines of a table, and the networks that are attacked in them or that examples come from.

    Each of `claims` is a sentence of appendix D and the two networks it puts in order. `n` test images are attacked.
    `remarks` are rows about the networks, which the footer of the figure repeats.
    """

    dataset: DataSet
    lines: tuple[Line, ...]
    targets: Mapping[str, Variant]
    sources: Mapping[str, Variant]
    claims: tuple[tuple[str, str, str], ...]
    n: int
    remarks: tuple[Row, ...] = ()


def outcome(table: Table, run: Run) -> Outcome:
    frame, networks = measured(table.lines, table.targets, table.sources, run, table.n)
    title = table.dataset.title
    rows = [
        *table.remarks,
        *attack_rows(title, frame),
        *transfers.rows(title, frame),
        *(transfers.claim(title, frame, *claim) for claim in table.claims),
    ]
    figure = table_figure.figure(title, frame, run, networks, "".join(f"; {row.ours}" for row in table.remarks))
    return Outcome({table.dataset.name: figure}, {"accuracies": frame}, tuple(rows), networks)


def attack_rows(title: str, frame: pl.DataFrame) -> list[Row]:
    """One row for each line of the published table, and for each of ours that it lacks."""
    return [
        Row(
            f"{title}, {row['label']}",
            "not printed" if row["published"] is None else f"{row['published']:.1f}",
            percent(row),
            "; ".join(filter(None, (f"n = {row['n']}", row["note"]))),
        )
        for row in frame.filter(pl.col("part") == PART).iter_rows(named=True)
    ]
