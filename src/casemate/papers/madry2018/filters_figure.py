"""The figure of appendix E: the filters of both networks, their thresholds, and the weights of the later layers."""

import math
from collections.abc import Mapping

import numpy as np
import polars as pl
from jaxtyping import Float32
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from casemate.papers import figures
from casemate.papers.evaluation import Evaluation
from casemate.papers.item import Run
from casemate.papers.madry2018 import thresholds
from casemate.papers.madry2018.filters_claims import KINDS, OUTPUT, SECOND, biases_of, filters_of, weights_of
from casemate.papers.madry2018.pair import COLOURS
from casemate.papers.networks import Network

N_BINS = 60
# The thresholds on the axis; what is beyond is drawn at its ends.
SHOWN = (-0.5, 1.5)
# Half a weight, so that a single one is seen on a logarithmic axis.
HALF = 0.5

Frames = Mapping[str, pl.DataFrame]
Tiles = Float32[np.ndarray, "filters height width"]


def figure(frames: Frames, judged: Evaluation, run: Run, networks: Mapping[str, Network]) -> Figure:
    """Above, the filters of the first layer; below, their thresholds, the weights further on and the class biases."""
    eps = judged.threat.eps

    def onto(figure: Figure) -> None:
        grid = figure.add_gridspec(2, 8, height_ratios=(1, 1.1))
        for place, (name, network) in enumerate(networks.items()):
            axes = figure.add_subplot(grid[0, 4 * place : 4 * place + 4])
            image = _filters(axes, tiles(network), filters_of(frames, name))
            axes.set_title(f"first layer, {name}")
            figure.colorbar(image, ax=axes, shrink=0.8)
        panels = [figure.add_subplot(grid[1, 2 * place : 2 * place + 2]) for place in range(4)]
        _thresholds(panels[0], frames, eps)
        _histogram(panels[1], frames, SECOND)
        _histogram(panels[2], frames, OUTPUT)
        _biases(panels[3], frames)

    return figures.draw(
        onto,
        width=13,
        height=7,
        title=f"What the layers look like, MNIST, {judged.threat}",
        footer=figures.footer(
            run,
            f"green: filters of one weight, all others under {thresholds.COUNTS:.0%} of it; struck out: filters that "
            f"nothing in the first n = {len(judged.x):,} test images makes answer",
            networks.values(),
        ),
    )


def tiles(network: Network) -> Tiles:
    """The filters of the first layer as images, the channels of each side by side."""
    weight = thresholds.first_layer(network.model).weight.detach().cpu()
    return weight.permute(0, 2, 1, 3).flatten(2).numpy()


def _filters(axes: Axes, images: Tiles, facts: pl.DataFrame) -> AxesImage:
    """All filters in one mosaic, on a scale of colours on which 0 is white."""
    n, height, width = images.shape
    columns = math.ceil(math.sqrt(2 * n))
    rows = math.ceil(n / columns)
    # One empty row and column between two filters.
    mosaic = np.full((rows * (height + 1), columns * (width + 1)), np.nan)
    for place, row in enumerate(facts.iter_rows(named=True)):
        top, left = place // columns * (height + 1), place % columns * (width + 1)
        mosaic[top : top + height, left : left + width] = images[place]
        corner = (left - 0.5, top - 0.5)
        edge = figures.GREEN if row["one_weight"] else figures.RULE
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=edge, linewidth=1.8))
        if row["fires"] == 0:
            axes.plot(
                [left - 0.5, left + width - 0.5], [top - 0.5, top + height - 0.5], color=figures.INK, linewidth=0.8
            )
    largest = float(np.abs(images).max())
    axes.set_axis_off()
    return axes.imshow(mosaic, cmap="RdBu_r", vmin=-largest, vmax=largest)


def _thresholds(axes: Axes, frames: Frames, eps: float) -> None:
    """One line for each network: filled dots are filters of one weight, the others stand for their largest weight."""
    for line, name in enumerate(KINDS):
        own = filters_of(frames, name)
        for single, fill in ((False, "none"), (True, "full")):
            values = own.filter(pl.col("one_weight") == single)["threshold"].to_numpy().clip(*SHOWN)
            axes.plot(values, np.full(len(values), line), "o", color=COLOURS[name], fillstyle=fill, markersize=7)
    for value in (eps, 1 - eps):
        axes.axvline(value, color=figures.INK, linestyle="--", linewidth=0.9)
    axes.set_yticks(range(len(KINDS)), KINDS, rotation=90, verticalalignment="center")
    axes.set_ylim(-0.6, len(KINDS) - 0.4)
    margin = 0.05 * (SHOWN[1] - SHOWN[0])
    axes.set_xlim(SHOWN[0] - margin, SHOWN[1] + margin)
    axes.set_title("-bias / largest weight, by filter")
    axes.set_xlabel("filled: of one weight; at the ends:\nbeyond; dashed: eps and 1 - eps")


def _histogram(axes: Axes, frames: Frames, layer: str) -> None:
    values = {name: weights_of(frames, name, layer).to_numpy() for name in KINDS}
    every = np.concatenate(list(values.values()))
    bins = np.linspace(every.min(), every.max(), N_BINS + 1).tolist()
    for name, own in values.items():
        axes.hist(own, bins=bins, color=COLOURS[name], alpha=0.6, label=name, log=True)
    axes.set_ylim(bottom=HALF)
    axes.set_title(f"weights of the {layer} layer")
    axes.set_xlabel("weight")
    figures.no_vertical_grid(axes)
    figures.legend_above(axes, columns=1)


def _biases(axes: Axes, frames: Frames) -> None:
    for name in KINDS:
        values = biases_of(frames, name, OUTPUT).to_numpy()
        axes.plot(values, "o-", color=COLOURS[name], label=name)
    axes.set_xticks(range(len(values)))
    axes.set_title("bias of each class")
    axes.set_xlabel("class")
    figures.legend_above(axes, columns=1)
