"""The figure of accuracy against eps: linf for all networks, l2 for each with all attacks, and how a walk converges."""

from collections.abc import Mapping

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from casemate.papers import figures
from casemate.papers.item import Run
from casemate.papers.madry2018 import families
from casemate.papers.madry2018 import figure6_curves as curves
from casemate.papers.madry2018.curve import standing
from casemate.papers.madry2018.figure6_claims import NAMED, PUBLISHED, Facts
from casemate.papers.madry2018.figure6_curves import DDN, HOPSKIPJUMP, IN_L2, IN_LINF, LEAST, PGD, walk_of
from casemate.papers.madry2018.pair import COLOURS, NATURAL, TRAINED
from casemate.papers.networks import Network

NETWORKS = {NATURAL: COLOURS[NATURAL], IN_LINF: COLOURS[TRAINED], IN_L2: figures.GREEN}


def attacks() -> Mapping[str, tuple[str, str]]:
    """The colour and the line of each attack in l2; the Boundary attack has one colour."""
    return {
        PGD: (figures.PURPLE, "-"),
        walk_of(curves.STEPS[0]): (figures.SKY, "--"),
        walk_of(curves.STEPS[-1]): (figures.SKY, "-"),
        HOPSKIPJUMP: (figures.ORANGE, "-"),
        DDN: (figures.MUTED, "-"),
        LEAST: (figures.INK, ":"),
    }


def figure(found: Facts, run: Run, networks: tuple[Network, ...]) -> Figure:
    """Above, linf and the convergence of the Boundary attack; below, one panel in l2 for each network."""
    names = found.networks

    def onto(figure: Figure) -> None:
        # Columns of which both two and as many panels as there are networks fit into a row.
        grid = figure.add_gridspec(2, 2 * len(names))
        _linf(figure.add_subplot(grid[0, : len(names)]), found)
        _convergence(figure.add_subplot(grid[0, len(names) :]), found)
        for place, name in enumerate(names):
            axes = figure.add_subplot(grid[1, 2 * place : 2 * place + 2])
            _l2(axes, found, name)
            if place == 0:
                axes.set_ylabel("accuracy")
        # The attacks of the lower row, the same in each panel.
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=len(attacks()), fontsize=8)

    named = f"; dashed in l2: {NAMED:g}, which the paper names"
    remark = named if found.mnist else "".join(f"; {row.ours}" for row in families.stand_in(run.setting))
    return figures.draw(
        onto,
        width=11,
        height=7.6,
        title=f"Accuracy against eps, {found.dataset.title}",
        footer=figures.footer(
            run,
            f"n = first {found.n:,} test images, bands are 95% intervals; what PGD breaks at one eps stays broken at "
            f"larger ones; the other attacks look for the nearest misclassified point of each image{remark}",
            networks,
        ),
    )


def _linf(axes: Axes, found: Facts) -> None:
    for name in found.networks:
        _at_each_eps(axes, found, name, "linf", NETWORKS[name], name)
    axes.axvline(found.threat.eps, color=figures.INK, linestyle="--", linewidth=0.9)
    axes.set_ylabel("accuracy")
    axes.set_title(f"PGD in linf; dashed: {found.threat}, of training")
    axes.legend(fontsize=8, loc="upper right")
    _finish(axes, found, "linf", found.networks)


def _l2(axes: Axes, found: Facts, name: str) -> None:
    for attack, (colour, line) in attacks().items():
        if attack == PGD:
            _at_each_eps(axes, found, name, "l2", colour, PGD)
            continue
        style = {"color": colour, "linestyle": line, "linewidth": 1.4, "label": attack}
        standing(axes, found.distances(name, attack), **style)
    if found.mnist and name == IN_LINF:
        axes.axvline(NAMED, color=figures.INK, linestyle="--", linewidth=0.9)
    axes.set_title(f"{name}, in l2")
    _finish(axes, found, "l2", [name])


def _at_each_eps(axes: Axes, found: Facts, network: str, norm: str, colour: str, label: str) -> None:
    rows = pl.DataFrame(found.curve(network, norm, PGD))
    eps, share, low, high = (rows[key].to_numpy() for key in ("eps", "accuracy", "low", "high"))
    axes.fill_between(eps, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(eps, share, "o-", color=colour, markersize=3.5, linewidth=1.4, label=label)


def _finish(axes: Axes, found: Facts, norm: str, networks: list[str]) -> None:
    """Published points, and an axis in the units of the paper: of 255 for CIFAR-10."""
    last = found.curve(networks[0], norm, PGD)[-1]["eps"]
    axes.set_xlim(0, last)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    label = f"{norm} eps"
    if not found.mnist:
        axes.xaxis.set_major_formatter(lambda value, position: f"{255 * value:.0f}")
        axes.set_xticks(np.linspace(0, last, 6))
        axes.set_xlabel(f"{label}, of 255")
        return
    published = {key: value for key, value in PUBLISHED.items() if key[0] in networks and key[1] == norm}
    for (network, _, eps), value in published.items():
        axes.plot(eps, value / 100, "D", color=NETWORKS[network], fillstyle="none", clip_on=False)
    axes.set_xlabel(label + ("; diamonds: Maini et al. 2020" if published else ""))


def _convergence(axes: Axes, found: Facts) -> None:
    """The median distance after each step; dotted, the median of the least that all attacks come to."""
    medians = found.frames["walks"].group_by("network", "step", maintain_order=True).agg(pl.col("distance").median())
    for name in found.networks:
        own = medians.filter(pl.col("network") == name)
        axes.plot(own["step"].to_numpy(), own["distance"].to_numpy(), color=NETWORKS[name], linewidth=1.4, label=name)
        axes.axhline(np.median(found.distances(name, LEAST).to_numpy()), color=NETWORKS[name], linestyle=":")
    axes.axvline(curves.STEPS[0], color=figures.INK, linestyle="--", linewidth=0.9)
    axes.set_xlim(0, curves.STEPS[-1])
    axes.set_ylim(bottom=0)
    axes.set_title("Boundary attack, median l2 distance; dotted: least of all")
    axes.set_xlabel("steps; dashed: the paper's")
    axes.legend(fontsize=8, loc="upper right")
