"""Attacked accuracy against the steps of one search."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from casemate.report import chart, words


def figure(curves: Mapping[str, Any] | None) -> Markup | None:
    """What curves.json says of accuracy against steps; None where it says nothing."""
    found = (curves or {}).get("accuracy_against_steps")
    if not found or not found["attacked_accuracy"]:
        return None
    accuracy = found["attacked_accuracy"]

    def onto(figure: Figure) -> None:
        axes = figure.subplots()
        chart.accuracy_axis(axes)
        axes.plot(range(len(accuracy)), accuracy, color=chart.INK, drawstyle="steps-post")
        axes.set_xlim(0, len(accuracy) - 1)
        axes.set_xlabel("step")
        axes.set_ylabel("attacked accuracy")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    half, last = accuracy[(len(accuracy) - 1) // 2], accuracy[-1]
    label = (
        f"Attacked accuracy of {words.images(found['n'])} against steps: {words.percent(accuracy[0])} at the start, "
        f"{words.percent(half)} half-way, {words.percent(last)} at the end."
    )
    return chart.draw("steps", label, onto, chart.Size(760, 260), chart.Size(348, 240))
