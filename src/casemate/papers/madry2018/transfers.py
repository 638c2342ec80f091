"""Transferred examples (appendix D): every network attacked from an independent copy of every network."""

from collections.abc import Mapping, Sequence

import polars as pl

from casemate.papers.evaluation import rises
from casemate.papers.item import Row
from casemate.papers.madry2018.grid import Line, Search

PART = "transfer"

# What FGSM and PGD leave of the accuracy, in percent, by target and source.
Published = Mapping[tuple[str, str], tuple[float, float]]


def primed(name: str) -> str:
    """As A' is to A: the name of an independent copy."""
    return f"{name}'"


def lines(names: Sequence[str], fgsm: Search, pgd: Search, published: Published) -> list[Line]:
    """Two lines for every target among `names` and every source, the copies of `names`."""
    found = []
    for target in names:
        for source in names:
            printed = published.get((target, source), (None, None))
            found += [
                Line(PART, "FGSM", target, primed(source), printed[0], fgsm),
                Line(PART, "PGD", target, primed(source), printed[1], pgd),
            ]
    return found


def rows(title: str, frame: pl.DataFrame) -> list[Row]:
    """FGSM and PGD of one target and source in one row, as the published tables have them side by side."""
    found = []
    for (target, source), own in frame.filter(pl.col("part") == PART).group_by(
        ["target", "source"], maintain_order=True
    ):
        printed = [f"{value:.1f}" for value in own["published"] if value is not None]
        found.append(
            Row(
                f"{title}: on {target} from {source}, FGSM / PGD",
                " / ".join(printed) or "not printed",
                " / ".join(f"{100 * value:.1f}" for value in own["accuracy"]),
                f"n = {own['n'][0]}",
            )
        )
    return found


def claim(title: str, frame: pl.DataFrame, what: str, weaker: str, stronger: str) -> Row:
    """Whether PGD from a copy of itself leaves more of the `stronger` network than of the `weaker` one."""
    cells = frame.filter((pl.col("part") == PART) & (pl.col("method") == "PGD"))
    first, second = (
        cells.row(by_predicate=(pl.col("target") == name) & (pl.col("source") == primed(name)), named=True)
        for name in (weaker, stronger)
    )
    return Row(
        f"{title}: {what}; PGD from a copy on {weaker}, {stronger}",
        f"{first['published']:.1f}, {second['published']:.1f}",
        f"{100 * first['accuracy']:.1f}, {100 * second['accuracy']:.1f}",
        rises(first, second),
    )
