"""Loss against iteration for many random starts (Madry et al. 2018, figure 1): one small panel per image."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from casemate.report import chart

N_PANELS = 9
# From here on a linear axis shows the small losses as one flat line.
LOG_FROM = 50.0


@dataclass(frozen=True, eq=False)
class LossPaths:
    """`loss` has one row per start and one column per step, for each of the images in `indices`."""

    indices: tuple[int, ...]
    n_starts: int
    loss: tuple[npt.NDArray[np.float64], ...]
    attack: Any

    @property
    def is_log(self) -> bool:
        values = np.concatenate([paths.ravel() for paths in self.loss])
        values = values[np.isfinite(values)]
        return bool(len(values) and values.min() > 0 and values.max() / values.min() >= LOG_FROM)

    @property
    def label(self) -> str:
        pairs = zip(self.indices, self.loss, strict=True)
        ends = [f"image {index} ends between {_range(paths[:, -1])}" for index, paths in pairs]
        return f"Loss against iteration from {self.n_starts} random starts: {'; '.join(ends)}."


def loss_paths(curves: Mapping[str, Any] | None) -> LossPaths | None:
    """What curves.json says of loss paths, the first `N_PANELS` images of it; None where it says nothing."""
    found = (curves or {}).get("loss_paths")
    if not found or not found["indices"] or not found["loss"][0] or not found["loss"][0][0]:
        return None
    loss = tuple(np.array(paths, dtype=np.float64) for paths in found["loss"][:N_PANELS])
    return LossPaths(
        tuple(int(index) for index in found["indices"][:N_PANELS]), found["n_starts"], loss, found.get("attack")
    )


def figure(paths: LossPaths) -> Markup:
    def onto(figure: Figure) -> None:
        columns = min(len(paths.loss), 2 if chart.is_narrow(figure) else 3)
        rows = math.ceil(len(paths.loss) / columns)
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for place, axes in enumerate(panels.flat):
            if place >= len(paths.loss):
                axes.set_axis_off()
                continue
            axes.plot(paths.loss[place].T, color=chart.CERTIFIED, linewidth=0.8, alpha=0.55)
            axes.set_title(f"image {paths.indices[place]}", color=chart.INK)
            axes.set_xlabel("iteration" if place + columns >= len(paths.loss) else "")
            axes.tick_params(labelbottom=place + columns >= len(paths.loss))
            axes.set_ylabel("loss" if place % columns == 0 else "")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.grid(axis="x", visible=False)
        if paths.is_log:
            _log_axis(panels[0, 0])

    rows = math.ceil(len(paths.loss) / 3)
    narrow_rows = math.ceil(len(paths.loss) / 2)
    return chart.draw(
        "loss", paths.label, onto, chart.Size(760, 60 + 190 * rows), chart.Size(348, 60 + 130 * narrow_rows)
    )


def _log_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = [10.0**k for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    axes.yaxis.set_major_locator(FixedLocator(decades[:: math.ceil(len(decades) / 5)]) if decades else LogLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _range(values: npt.NDArray[np.float64]) -> str:
    return f"{values.min():.3g} and {values.max():.3g}"
