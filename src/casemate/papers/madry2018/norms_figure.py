"""The figure about linf and l2: accuracy against the radius in both, and the gains in both against each other."""

from collections.abc import Iterable

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from casemate.papers import figures
from casemate.papers.item import Run
from casemate.papers.madry2018 import curve
from casemate.papers.madry2018.norms_answer import AT, on_radii
from casemate.papers.madry2018.norms_facts import NORMS, Facts, Norm
from casemate.papers.madry2018.pair import NATURAL
from casemate.papers.networks import Network

COLOURS = {NATURAL: figures.BLUE, "linf": figures.VERMILION, "l2": figures.GREEN}
# From the smallest radius that a network was trained on to the largest.
STYLES = (":", "--", "-")
# Up to where the curves are drawn: a third beyond the largest radius of training, and beyond the corner of linf 0.3.
LIMITS: dict[Norm, float] = {"linf": 0.4, "l2": 9.0}


def figure(found: Facts, run: Run, networks: Iterable[Network]) -> Figure:
    """Three panels: the curves in linf, those in l2 with the matched radii, and one dot a network for the gains."""

    def onto(figure: Figure) -> None:
        panels = figure.subplots(1, 3, width_ratios=(1, 1.3, 1))
        for axes, norm in zip(panels, NORMS, strict=False):
            _curves(axes, found, norm)
        panels[0].axvline(AT, color=figures.INK, linewidth=0.8)
        panels[0].legend(fontsize=8, title="trained on", title_fontsize=8)
        _matches(panels[1], found)
        _gains(panels[2], found)

    facts = figures.footer(
        run,
        f"n = {found.n} test images, the first; distances of the nearest points found by PGD and bisection in both "
        f"norms, DDN, and HopSkipJump for {found.alone(NATURAL)['n']} of them, so from above",
        networks,
    )
    return figures.draw(
        onto,
        width=13,
        height=5.6,
        title="linf and l2: networks trained in either norm, attacked in both, MNIST",
        footer=f"{on_radii(found)} {facts}",
    )


def _look(found: Facts, network: str) -> tuple[str, str]:
    """Colour by the norm of training, line style by its radius."""
    norm = network.partition(":")[0]
    alike = [name for name in found.networks if name.partition(":")[0] == norm]
    return COLOURS[norm], "-" if network == NATURAL else STYLES[alike.index(network)]


def _curves(axes: Axes, found: Facts, norm: Norm) -> None:
    for network in found.networks:
        colour, style = _look(found, network)
        own = found.distances.filter(pl.col("network") == network)
        curve.standing(axes, own[norm], color=colour, linestyle=style, label=network)
    axes.set_xlim(0, LIMITS[norm])
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"{norm} radius")
    axes.set_title(f"share of images standing, {norm}")


def _matches(axes: Axes, found: Facts) -> None:
    """Where linf 0.3 comes to lie in l2, by every match."""
    for match, radius in found.radii[AT].items():
        axes.axvline(radius, color=figures.INK, linewidth=0.8)
        text = f"{match}, {radius:.2f}"
        axes.annotate(text, (radius, 1), fontsize=7, color=figures.INK, rotation=90, ha="left", va="top")
    axes.set_title(f"share of images standing, l2; lines: matches of linf {AT:g}")


def _gains(axes: Axes, found: Facts) -> None:
    for row in found.summary.iter_rows(named=True):
        name = row["network"]
        axes.plot(row["linf_gain"], row["l2_gain"], "o", color=_look(found, name)[0])
        axes.annotate(name, (row["linf_gain"], row["l2_gain"]), (5, 3), textcoords="offset points", fontsize=8)
    # Room for the names.
    longest = 1.15 * max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot((0, longest), (0, longest), color=figures.MUTED, linewidth=0.8, linestyle="--")
    axes.set_xlim(0, longest)
    axes.set_ylim(0, longest)
    axes.set_xlabel("gain in linf")
    axes.set_ylabel("gain in l2")
    axes.set_title(f"median smallest change, over that of {NATURAL}")
