"""The margin loss along the gradient and along a random direction: one small panel per image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from casemate.report import chart

# Neighbouring levels of the loss, drawn ever stronger upwards.
N_LEVELS = 10


def figure(curves: Mapping[str, Any] | None) -> Markup | None:
    """What curves.json says of loss surfaces; None where it says nothing."""
    found = (curves or {}).get("loss_surfaces")
    if not found or not found["indices"]:
        return None
    surfaces = [np.array(loss, dtype=np.float64) for loss in found["loss"]]

    def onto(figure: Figure) -> None:
        narrow = chart.is_narrow(figure)
        shape = (len(surfaces), 1) if narrow else (1, len(surfaces))
        panels = figure.subplots(*shape, squeeze=False)
        for place, (axes, index, loss) in enumerate(zip(panels.flat, found["indices"], surfaces, strict=True)):
            _panel(axes, loss)
            axes.set_title(f"image {index}", color=chart.INK)
            axes.set_ylabel("along the gradient" if narrow or place == 0 else "")
            axes.set_xlabel("random direction")

    ends = [
        f"image {index}: {loss[0].mean():.3g} one budget down the gradient, {loss[-1].mean():.3g} one budget up"
        for index, loss in zip(found["indices"], surfaces, strict=True)
    ]
    n = len(surfaces)
    label = f"Margin loss around images. {'; '.join(ends)}."
    return chart.draw("surfaces", label, onto, chart.Size(760, 300), chart.Size(348, 60 + 280 * n))


def _panel(axes: Axes, loss: Any) -> None:
    ticks = np.linspace(-1, 1, len(loss))
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.set_xticks([-1, 0, 1], ["-eps", "0", "eps"])
    axes.set_yticks([-1, 0, 1], ["-eps", "0", "eps"])
    low, high = float(loss.min()), float(loss.max())
    if not high > low:
        return
    levels = np.linspace(low, high, N_LEVELS + 2)[1:-1]
    for place, level in enumerate(levels):
        strength = 0.25 + 0.75 * place / N_LEVELS
        axes.contour(ticks, ticks, loss, [level], colors=[chart.CERTIFIED], linewidths=0.9, alpha=strength)
    if low < 0 < high:
        axes.contourf(ticks, ticks, loss, [0, high], colors=[chart.BROKEN], alpha=0.18)
        axes.contour(ticks, ticks, loss, [0], colors=[chart.BROKEN], linewidths=1.6)
