"""How the network was trained: its loss, and its accuracies on held-out images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from casemate.report import chart, words

WIDE, NARROW = chart.Size(760, 500), chart.Size(348, 480)
# A longer log is drawn as the means of as many stretches.
N_POINTS = 400
ACCURACIES = {
    "clean_accuracy": ("clean", chart.INK, "-"),
    "one_step_accuracy": ("one step", chart.MISCLASSIFIED, (0, (4, 2))),
    "attacked_accuracy": ("attacked", chart.BROKEN, "-"),
}


def figure(log: Sequence[dict[str, Any]]) -> Markup | None:
    """The training curve from the lines of a training log; None where nothing in it can be drawn."""
    training = [line for line in log if line.get("kind") == "train" and "loss" in line]
    checks = [line for line in log if any(line.get(key) is not None for key in ACCURACIES)]
    if not training and not checks:
        return None

    def onto(figure: Figure) -> None:
        if training and checks:
            above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
            _loss(above, training)
            above.set_xlabel("")
            _accuracies(below, checks, chart.is_narrow(figure))
        elif training:
            _loss(figure.subplots(), training)
        else:
            _accuracies(figure.subplots(), checks, chart.is_narrow(figure))

    return chart.draw("training", _label(training, checks), onto, WIDE, NARROW)


def alarm(log: Sequence[dict[str, Any]]) -> float | None:
    """The epoch of the first check that the training called catastrophic overfitting; None where none was."""
    return next((line["epoch"] for line in log if line.get("catastrophic_overfitting")), None)


def _loss(axes: Axes, training: Sequence[dict[str, Any]]) -> None:
    epoch = np.array([line["epoch"] for line in training], dtype=np.float64)
    loss = np.array([line["loss"] for line in training], dtype=np.float64)
    if len(epoch) > N_POINTS:
        epoch, loss = _means(epoch), _means(loss)
    axes.plot(epoch, loss, color=chart.CERTIFIED, linewidth=1.2, marker="o" if len(epoch) == 1 else "")
    axes.set_ylabel("training loss")
    axes.set_ylim(bottom=0)
    _epoch_axis(axes)


def _accuracies(axes: Axes, checks: Sequence[dict[str, Any]], narrow: bool) -> None:
    for key, (name, colour, dashes) in ACCURACIES.items():
        known = [(line["epoch"], line[key]) for line in checks if line.get(key) is not None]
        if known:
            epoch, accuracy = zip(*known, strict=True)
            axes.plot(
                epoch, accuracy, color=colour, linestyle=dashes, marker="o", markersize=3 if narrow else 4, label=name
            )
    chart.accuracy_axis(axes)
    axes.set_ylabel("held-out accuracy")
    axes.legend(
        frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, labelcolor=chart.INK, columnspacing=1.4
    )
    _epoch_axis(axes)


def _epoch_axis(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda epoch, _: f"{epoch:g}"))
    axes.grid(axis="x", visible=False)


def _means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([part.mean() for part in np.array_split(values, N_POINTS)])


def _label(training: Sequence[dict[str, Any]], checks: Sequence[dict[str, Any]]) -> str:
    parts = []
    if training:
        parts.append(f"training loss from {training[0]['loss']:.3g} to {training[-1]['loss']:.3g}")
    parts += [
        f"{name} accuracy {words.percent(checks[-1][key])} at the end"
        for key, (name, _, _) in ACCURACIES.items()
        if checks and checks[-1].get(key) is not None
    ]
    return f"Training curve: {', '.join(parts)}."
