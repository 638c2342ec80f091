"""Which attack broke what, which alone, and at what price."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class StageRow:
    """One stage of the cascade.

    `broke` counts the images that stood until this stage, `breaks` all the broken images that it breaks when tried on
    them, `alone` those that no other stage breaks. `bar` and `bar_alone` are in percent of the longest bar.
    """

    name: str
    tried: int
    broke: int
    breaks: int
    alone: int
    seconds: float
    bar: float
    bar_alone: float


def stage_rows(summary: Mapping[str, Any], verdicts: pl.DataFrame) -> list[StageRow]:
    """In the order the stages ran."""
    stages = summary["attacks"]
    breaks = verdicts["broken_by"].explode().value_counts()
    by_name = dict(zip(breaks["broken_by"], breaks["count"], strict=True))
    longest = max((stage["broke"] for stage in stages), default=0) or 1
    return [
        StageRow(
            stage["name"],
            stage["tried"],
            stage["broke"],
            by_name.get(stage["name"], 0),
            stage["alone"],
            stage["seconds"],
            100 * stage["broke"] / longest,
            100 * min(stage["alone"], stage["broke"]) / longest,
        )
        for stage in stages
    ]
