"""Bars of how long each contender took."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS, THEIRS, UNIT = "#1f6f8b", "#b8bec5", "#e3e6e9"


def multiples(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """One bar per row, its length the wall time in units of the bare cost; a whisker from the least run to the most."""
    # Heavy, and not needed by the programs' --help.
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams |= {"svg.hashsalt": "casemate", "svg.fonttype": "none"}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 0.6 + 0.42 * len(rows)), layout="constrained")
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
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
