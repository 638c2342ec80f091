"""The figure about capacity: accuracy for each way of training, and the loss that training came to."""

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from casemate.papers import figures
from casemate.papers.item import Run
from casemate.papers.madry2018.families import CAPACITIES, STAND_IN, TRAININGS, WIDE
from casemate.papers.madry2018.pair import DataSet
from casemate.papers.networks import Network

# One colour for natural, FGSM and PGD examples, be they to judge by or to train on, as in the paper.
COLOURS = dict(zip(TRAININGS.values(), (figures.BLUE, figures.ORANGE, figures.VERMILION), strict=True))
# Beside each other, since FGSM and PGD may leave the same.
SHIFT = 0.07
# What a logarithmic axis can show of a loss of 0.
LEAST_LOSS = 1e-6

Frames = dict[str, pl.DataFrame]


def figure(dataset: DataSet, frames: Frames, run: Run, networks: tuple[Network, ...]) -> Figure:
    """Three panels of accuracy against capacity, one for each way of training, and one of the final losses."""
    capacities = frames["networks"]["capacity"].unique(maintain_order=True).to_list()

    def onto(figure: Figure) -> None:
        panels = figure.subplots(1, len(COLOURS) + 1)
        for letter, training, axes in zip("abc", COLOURS, panels, strict=False):
            _accuracies(axes, frames["accuracies"].filter(pl.col("training") == training))
            axes.set_title(f"({letter}) {training} training")
        _losses(panels[-1], frames["networks"])
        for axes in panels:
            axes.set_xticks(range(len(capacities)), capacities)
            axes.set_xlim(-0.5, len(capacities) - 0.5)
            axes.set_xlabel("capacity")
        panels[0].set_ylabel("accuracy, %")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(COLOURS))

    remark = f"; {STAND_IN}" if dataset.name == "cifar10" and WIDE not in CAPACITIES[run.setting] else ""
    return figures.draw(
        onto,
        width=12,
        height=4,
        title=f"Capacity and robustness, {dataset.title}, {networks[0].recipe.threat}",
        footer=figures.footer(
            run, f"n = first {frames['accuracies']['n'][0]:,} test images, 95% intervals{remark}", networks
        ),
    )


def _accuracies(axes: Axes, own: pl.DataFrame) -> None:
    for place, (adversary, colour) in enumerate(COLOURS.items()):
        rows = own.filter(pl.col("adversary") == adversary)
        share, low, high = (100 * rows[key].to_numpy() for key in ("accuracy", "low", "high"))
        axes.errorbar(
            np.arange(len(rows)) + SHIFT * (place - 1),
            share,
            yerr=(share - low, high - share),
            marker="o",
            color=colour,
            linewidth=1.4,
            label=f"{adversary} examples",
        )
    axes.set_ylim(-3, 103)
    figures.no_vertical_grid(axes)


def _losses(axes: Axes, facts: pl.DataFrame) -> None:
    for training, colour in COLOURS.items():
        losses = facts.filter(pl.col("training") == training)["loss"].to_numpy()
        axes.plot(np.arange(len(losses)), np.maximum(losses, LEAST_LOSS), marker="o", color=colour)
    axes.set_yscale("log")
    axes.set_title("(d) loss on own training examples")
    figures.no_vertical_grid(axes)
