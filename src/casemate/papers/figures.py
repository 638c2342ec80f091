"""The style that the papers' figures share: readable on white, safe for the colour-blind, with a footer of facts."""

import contextlib
import io
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from casemate.papers.item import Run
from casemate.papers.networks import Network

DPI = 160

INK, MUTED, RULE = "#1a1a1a", "#595959", "#dddddd"
# Okabe and Ito's palette (2008), in which each pair stays apart under the common kinds of colour blindness.
BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"

# `Any`: versions of matplotlib differ in how they type their settings.
_STYLE: Any = {
    # The same figure gives the same file.
    "svg.hashsalt": "casemate",
    "font.size": 10.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def draw(onto: Callable[[Figure], None], *, width: float, height: float, title: str, footer: str) -> Figure:
    """The figure that `onto` draws, `width` by `height` inches, with a title above and the footer below it."""
    with _styled():
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.suptitle(title, x=0.01, horizontalalignment="left", fontsize=12)
        # Some 15 letters of this size fit into an inch.
        lines = textwrap.fill(footer, round(15 * width))
        figure.supxlabel(lines, x=0.01, horizontalalignment="left", fontsize=8, color=MUTED)
        onto(figure)
    return figure


def footer(run: Run, n: str, networks: Iterable[Network], *, full: str = "the paper's setting") -> str:
    """What every figure says about itself; `n` tells how many of what, `full` what the full setting is."""
    sizes = [
        f"{network.name} ({sum(parameter.numel() for parameter in network.model.parameters()):,} parameters)"
        for network in networks
    ]
    kind = full if run.setting == "full" else "SMALL SETTING, not the paper's: short trainings"
    return f"{kind}; {n}; seed {run.seed}; networks {', '.join(sizes)}"


def no_vertical_grid(axes: Axes) -> None:
    axes.grid(axis="x", visible=False)


def legend_above(axes: Axes, columns: int) -> None:
    """A legend inside the panel, in room made for it above what is drawn there."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, low * (high / low) ** 1.4 if axes.get_yscale() == "log" else low + 1.4 * (high - low))
    axes.legend(fontsize=8, loc="upper left", ncols=columns)


def png(figure: Figure) -> bytes:
    return _saved(figure, "png", {"Software": None})


def svg(figure: Figure) -> bytes:
    return _saved(figure, "svg", {"Date": None, "Creator": None})


def _saved(figure: Figure, form: str, metadata: dict[str, Any]) -> bytes:
    written = io.BytesIO()
    with _styled():
        figure.savefig(written, format=form, dpi=DPI, metadata=metadata)
    return written.getvalue()


@contextlib.contextmanager
def _styled() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the figures
        matplotlib.rcParams.update(_STYLE)
        yield
