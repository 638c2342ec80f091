"""How long each contender took: as bars, or along the seconds of its training."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS, THEIRS, UNIT = "#1f6f8b", "#b8bec5", "#e3e6e9"
# As THEIRS, for what is too thin to be so pale.
PEERS = "#6b7280"


def multiples(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """One bar per row, its length the wall time in units of the bare cost; a whisker from the least run to the most."""
    figure, axes = _axes(0.6 + 0.42 * len(rows), title)
    unit = next(row["wall"] for row in rows if row["wall_multiple"] == 1)
    for place, row in enumerate(reversed(rows)):
        colour = OURS if row["name"] == "casemate" else UNIT if row["name"].startswith("bare") else THEIRS
        axes.barh(place, row["wall_multiple"], color=colour, height=0.66)
        least, most = min(row["walls"]) / unit, max(row["walls"]) / unit
        axes.plot([least, most], [place, place], color="#333333", linewidth=1)
        axes.annotate(
            f"{row['wall_multiple']:.2f}", (most, place), xytext=(5, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)])
    axes.set_xlim(0, 1.12 * max(max(row["walls"]) for row in rows) / unit)
    _save(figure, path)


def against_time(rows: Sequence[dict[str, Any]], goal: float, title: str, path: Path) -> None:
    """Attacked accuracy against seconds of training: a dot a seed, a line where one was judged along the way.

    `goal`, a share, is a horizontal rule.
    """
    from matplotlib.ticker import LogLocator

    figure, axes = _axes(3.6, title)
    for row, marker in zip(rows, itertools.cycle("osD^v"), strict=False):
        colour = OURS if row["name"].startswith("casemate") else PEERS
        for place, run in enumerate(row["runs"]):
            seconds = [point["wall"] for point in run["points"]]
            accuracy = [100 * point["attacked_accuracy"] for point in run["points"]]
            label = row["name"] if place == 0 else None
            style: dict[str, Any] = {"marker": marker, "color": colour, "linewidth": 1, "markersize": 5}
            axes.plot(seconds, accuracy, **style, label=label, clip_on=False)
    axes.axhline(100 * goal, color="#333333", linewidth=0.8, linestyle="--")
    axes.annotate(f"{goal:.0%}", (1, 100 * goal), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_ylim(0, 100)
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("attacked accuracy, %")
    axes.legend(frameon=False)
    _save(figure, path)


def _axes(height: float, title: str) -> tuple[Any, Any]:
    # Heavy, and not needed by the programs' --help.
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams |= {"svg.hashsalt": "casemate", "svg.fonttype": "none"}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, height), layout="constrained")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
