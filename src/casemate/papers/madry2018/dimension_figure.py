"""The figure of the two experiments on the dimension of the input."""

from collections.abc import Iterable

import numpy as np
import polars as pl
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from casemate.papers import figures
from casemate.papers.item import Run
from casemate.papers.madry2018 import curve
from casemate.papers.madry2018.dimension_answers import on_pixels, on_resizes
from casemate.papers.madry2018.dimension_facts import KINDS, Facts
from casemate.papers.madry2018.pair import COLOURS
from casemate.papers.networks import Network

STYLES = (":", "--", "-")
# Beside each other within the line of one resize.
OFFSETS = dict(zip(KINDS, (-0.14, 0.14), strict=True))


def figure(found: Facts, run: Run, networks: Iterable[Network]) -> Figure:
    """Above, networks of three sizes; below, one network of each kind behind every resize."""

    def onto(figure: Figure) -> None:
        panels = figure.subplots(2, 3, gridspec_kw={"height_ratios": (1, 1.35)})
        _curves(panels[0][0], found)
        _lengths(panels[0][1], found)
        _gradients(panels[0][2], found)
        _standing(panels[1][0], found)
        _ratios(panels[1][1], found, "linf")
        _ratios(panels[1][2], found, "l2")

    facts = figures.footer(
        run,
        f"n = {found.n} test images, the first; linf by PGD and bisection, l2 by DDN, so both from above",
        networks,
    )
    return figures.draw(
        onto,
        width=13,
        height=9.6,
        title=f"The dimension of the input: images of three sizes, and attacks through the resize, {found.title}",
        footer=f"{on_pixels(found)} {on_resizes(found)} {facts}",
    )


def _curves(axes: Axes, found: Facts) -> None:
    """The share of images whose nearest adversarial point is further than eps, for every network."""
    for network in KINDS:
        for side, style in zip(found.sides, STYLES, strict=True):
            own = found.frames["sizes"].filter((pl.col("network") == network) & (pl.col("side") == side))
            label = f"{network}, {side} pixels"
            curve.standing(axes, own["linf"], color=COLOURS[network], linestyle=style, label=label)
    axes.axvline(found.threat.eps, color=figures.INK, linewidth=0.8)
    axes.set_xlim(0, 2 * found.threat.eps)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("linf radius")
    axes.set_title("share of images standing")
    axes.legend(fontsize=7)


def _lengths(axes: Axes, found: Facts) -> None:
    """Medians against the side, over those at the images' own size; grey is what the two theories say."""
    sides = np.array(found.sides, dtype=float)
    relative = sides / found.own
    for values, text in ((1 / relative, "1 / sqrt(n)"), (relative**0, "unchanged"), (relative, "sqrt(n)")):
        axes.plot(sides, values, color=figures.MUTED, linewidth=0.8, linestyle="--")
        axes.annotate(text, (sides[2], values[2]), fontsize=7, color=figures.MUTED, ha="right", va="bottom")
    for network in KINDS:
        for norm, marker, style in (("linf", "o", "-"), ("l2", "s", ":")):
            values = _lengths_only(found.size(network, side)[norm] for side in found.sides)
            label = f"{norm}, {network}"
            axes.plot(sides, values / values[1], marker, linestyle=style, color=COLOURS[network], label=label)
    _logarithmic(axes, found)
    axes.set_title(f"median smallest change, over that at {found.own}")
    axes.legend(fontsize=7)


def _gradients(axes: Axes, found: Facts) -> None:
    sides = np.array(found.sides, dtype=float)
    lines = {network: [found.size(network, side)["gradient"] for side in found.sides] for network in KINDS}
    lines["untrained"] = [found.untrained_at(side) for side in found.sides]
    for name, gradient in lines.items():
        values = _lengths_only(gradient)
        axes.plot(sides, values, "o-", color=COLOURS.get(name, figures.GREEN), label=name)
        axes.plot(sides, values[1] * sides / found.own, color=figures.MUTED, linewidth=0.8, linestyle="--")
    _logarithmic(axes, found)
    axes.set_title("mean l1 norm of the gradient; dashed: sqrt(n)")
    axes.legend(fontsize=7)


def _lengths_only(values: Iterable[float]) -> Float64[np.ndarray, "sides"]:
    """NaN, which is not drawn, where there is no length, as of a network that gets most images wrong."""
    return np.array([value if 0 < value < np.inf else np.nan for value in values])


def _logarithmic(axes: Axes, found: Facts) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(_plain)
    axes.set_xticks(found.sides, [str(side) for side in found.sides])
    axes.set_xlabel("pixels a side")


def _plain(value: float, position: float) -> str:
    return f"{value:g}"


def _standing(axes: Axes, found: Facts) -> None:
    names = _resizes(axes, found)
    for network in KINDS:
        plain = found.size(network, found.own)
        axes.axvline(plain["standing"], color=COLOURS[network], linewidth=1, linestyle="--")
        shares = [found.through(network, name)["standing"] for name in names]
        _dots(axes, shares, network)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("dashed: without a resize")
    axes.set_title(f"share standing at {found.threat} behind a resize")


def _ratios(axes: Axes, found: Facts, norm: str) -> None:
    """Medians over images; the grey bars are what the closed forms allow."""
    names = _resizes(axes, found)
    for place, name in enumerate(names):
        closed = found.closed_form(name)
        # No less than one over the gain in linf; the response of averaging resizes may ask for more.
        low, high = (1 / closed["linf"], 1.0) if norm == "linf" else (closed["l2_least"], closed["l2_most"])
        # The edge is wide enough to be seen where the two are one.
        axes.barh(place, high - low, 0.5, low, color=figures.RULE, edgecolor=figures.RULE, linewidth=7, zorder=1)
    for network in KINDS:
        values = [found.through(network, name)[f"{norm}_ratio"] for name in names]
        _dots(axes, [np.nan if value is None else value for value in values], network)
    axes.set_yticklabels([])
    axes.set_xlabel("times that without a resize; grey: closed form")
    axes.set_title(f"smallest {norm} change in front of the resize")
    if norm == "linf":
        axes.set_xlim(0.45, 1.15)
    else:
        axes.set_xscale("log", base=2)
        axes.set_xlim(0.8, 16)
        axes.xaxis.set_major_formatter(_plain)


def _resizes(axes: Axes, found: Facts) -> list[str]:
    names = found.reach["resize"].unique(maintain_order=True).to_list()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    return names


def _dots(axes: Axes, values: list[float], network: str) -> None:
    places = np.arange(len(values)) + OFFSETS[network]
    axes.plot(values, places, "o", color=COLOURS[network], markersize=5, label=network)
