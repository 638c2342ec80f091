"""The bracket as a bar: where each share of the images lies between 0 and 100%."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from casemate.report import words


@dataclass(frozen=True)
class Segment:
    """One verdict's part of the bar; `start` and `width` in percent of it."""

    verdict: str
    meaning: str
    count: int
    share: float
    start: float
    width: float


@dataclass(frozen=True)
class Bracket:
    """Certified accuracy is where the first segment ends, attacked accuracy where the second does.

    `low` and `high` are the 95% interval of the robust accuracy. All four are shares in [0, 1].
    """

    n: int
    segments: tuple[Segment, ...]
    certified: float
    attacked: float
    low: float
    high: float

    @property
    def label(self) -> str:
        """The bar for those who do not see it."""
        shares = ", ".join(f"{words.percent(segment.share)} {segment.verdict}" for segment in self.segments)
        interval = f"{words.percent(self.low)} to {words.percent(self.high)}"
        return f"The bracket of {words.images(self.n)}: {shares}. Robust accuracy {interval}, 95% interval."


def bracket(summary: Mapping[str, Any]) -> Bracket:
    """The bracket of a run, from its summary (design, section 5)."""
    n = summary["n"]
    segments, start = [], 0
    for verdict in words.VERDICTS:
        images = summary["verdicts"][verdict]
        share = images / n
        segments.append(Segment(verdict, words.MEANING[verdict], images, share, 100 * start / n, 100 * share))
        start += images
    low, high = summary["robust_accuracy_interval"]
    return Bracket(n, tuple(segments), summary["certified_accuracy"], summary["attacked_accuracy"], low, high)
