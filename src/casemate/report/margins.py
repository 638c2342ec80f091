"""The margins of all images as a histogram, stacked by verdict."""

import numpy as np
import polars as pl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from casemate.report import chart, words

WIDE, NARROW = chart.Size(760, 320), chart.Size(348, 300)
N_BINS = 48
_COLOURS = {
    "misclassified": chart.MISCLASSIFIED,
    "broken": chart.BROKEN,
    "unresolved": chart.UNRESOLVED,
    "certified": chart.CERTIFIED,
}


def figure(verdicts: pl.DataFrame) -> Markup | None:
    """How far from the decision boundary, in logits, the worst point found for each image lies; None if unknown."""
    known = verdicts.filter(pl.col("margin").is_finite())
    if known.is_empty():
        return None
    low, high = _span(known["margin"].to_numpy())
    edges = _edges(low, high)
    parts = {name: known.filter(pl.col("verdict") == name)["margin"].clip(low, high).to_numpy() for name in _COLOURS}
    parts = {name: values for name, values in parts.items() if len(values)}

    def onto(figure: Figure) -> None:
        axes = figure.subplots()
        axes.hist(
            list(parts.values()),
            bins=edges.tolist(),
            stacked=True,
            color=[_COLOURS[name] for name in parts],
            label=list(parts),
            rwidth=0.86,
        )
        axes.axvline(0, color=chart.INK, linewidth=1)
        axes.set_xlabel("margin, in logits")
        axes.set_ylabel("images")
        axes.grid(axis="x", visible=False)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        columns = 2 if chart.is_narrow(figure) else 4
        figure.legend(frameon=False, loc="outside upper center", ncols=columns, labelcolor=chart.INK, handlelength=1)

    medians = ", ".join(f"{name} {words.decimal(float(np.median(values)), 2)}" for name, values in parts.items())
    return chart.draw("margins", f"Histogram of margins. Medians: {medians}.", onto, WIDE, NARROW)


def _span(margins: np.ndarray) -> tuple[float, float]:
    """The axis leaves out only far outliers, which are counted in the last bar: one must not flatten the rest."""
    low, high = float(margins.min()), float(margins.max())
    first, last = np.quantile(margins, [0.005, 0.995])
    reach = 3 * max(float(last - first), 1e-6)
    return max(low, float(first) - reach), min(high, float(last) + reach)


def _edges(low: float, high: float) -> np.ndarray:
    """Bins of one width, an edge at 0, so that no bar holds both sides of the decision boundary."""
    low, high = min(low, 0.0), max(high, 0.0)
    width = (high - low or 1.0) / N_BINS
    edges = width * np.arange(np.floor(low / width), np.ceil(high / width) + 1 + (low == high))
    # Rounding must not leave the outermost image out.
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return edges
