"""Which label turns into which prediction on the adversarial images."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

LARGEST_MATRIX = 12
N_PAIRS = 15


@dataclass(frozen=True)
class Confusion:
    """`matrix[label][prediction]` counts broken images; None where there are too many classes to show all.

    `pairs` are the most frequent (label, prediction, count), `left_out` the number of further pairs.
    """

    classes: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...] | None
    pairs: tuple[tuple[str, str, int], ...]
    left_out: int
    largest: int
    total: int

    @property
    def has_long_names(self) -> bool:
        """Whether the names of the columns must be turned to fit."""
        return max(map(len, self.classes)) > 3


def confusion(verdicts: pl.DataFrame, classes: Sequence[str]) -> Confusion | None:
    """None where nothing was broken."""
    broken = verdicts.filter(pl.col("verdict") == "broken")
    if broken.is_empty():
        return None
    counted = broken.group_by("label", "adversarial_prediction").len("count")
    counted = counted.sort("count", "label", "adversarial_prediction", descending=[True, False, False])
    rows = counted.rows()
    matrix = None
    if len(classes) <= LARGEST_MATRIX:
        counts = {(label, prediction): count for label, prediction, count in rows}
        numbers = range(len(classes))
        matrix = tuple(tuple(counts.get((label, to), 0) for to in numbers) for label in numbers)
    pairs = tuple((class_name(classes, a), class_name(classes, b), count) for a, b, count in rows[:N_PAIRS])
    return Confusion(tuple(classes), matrix, pairs, len(rows) - len(pairs), rows[0][2], len(broken))


def class_name(classes: Sequence[str], number: int) -> str:
    """The name of a class; its number where the model has more outputs than the data set has names."""
    return classes[number] if 0 <= number < len(classes) else f"output {number}"
