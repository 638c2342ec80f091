"""Accuracy against eps, of one run and of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from casemate import threat as threats
from casemate.report import chart, words

WIDE, NARROW = chart.Size(760, 380), chart.Size(348, 300)
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Curve:
    """Attacked accuracy on n images at each eps, with its 95% interval; shares in [0, 1]."""

    n: int
    eps: tuple[float, ...]
    accuracy: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    attack: Any

    @property
    def label(self) -> str:
        points = ", ".join(f"{words.percent(a)} at {e:.4g}" for e, a in zip(self.eps, self.accuracy, strict=True))
        return f"Attacked accuracy of {words.images(self.n)} against eps: {points}."


def curve(curves: Mapping[str, Any] | None) -> Curve | None:
    """What curves.json says of accuracy against eps; None where it says nothing."""
    found = (curves or {}).get("accuracy_against_eps")
    if not found or not found["eps"]:
        return None
    low, high = zip(*found["interval"], strict=True)
    return Curve(found["n"], tuple(found["eps"]), tuple(found["attacked_accuracy"]), low, high, found.get("attack"))


def figure_of_one(curve: Curve, summary: Mapping[str, Any]) -> Markup:
    """The curve with its interval as a band, and the bracket of the audit as a bar where its eps is."""

    def onto(figure: Figure) -> None:
        axes = figure.subplots()
        _frame(axes, summary["threat"], max(curve.eps))
        axes.fill_between(curve.eps, curve.low, curve.high, color=chart.UNRESOLVED, alpha=0.28, linewidth=0)
        axes.plot(curve.eps, curve.accuracy, color=chart.INK, marker="o", markersize=4, clip_on=False)
        _audit(axes, summary)

    return chart.draw("accuracy", curve.label, onto, WIDE, NARROW)


def figure_of_many(curves: Sequence[tuple[int, Curve]], threat: str, *, mark: bool) -> Markup:
    """The curves of several runs in one norm, each with the number that the run has on the page.

    `mark` draws the eps of `threat`, which all of them audited.
    """

    def onto(figure: Figure) -> None:
        axes = figure.subplots()
        _frame(axes, threat, max(max(curve.eps) for _, curve in curves))
        for number, curve in curves:
            colour = chart.SERIES[(number - 1) % len(chart.SERIES)]
            dashes = _DASHES[(number - 1) // len(chart.SERIES) % len(_DASHES)]
            axes.fill_between(curve.eps, curve.low, curve.high, color=colour, alpha=0.12, linewidth=0)
            axes.plot(
                curve.eps,
                curve.accuracy,
                dashes,
                color=colour,
                marker="o",
                markersize=4,
                clip_on=False,
                label=f"run {number}",
            )
        columns = 3 if chart.is_narrow(figure) else 6
        figure.legend(frameon=False, loc="outside lower center", ncols=columns, labelcolor=chart.INK)
        if mark:
            _mark_audited(axes, threat)

    label = " ".join(f"Run {number}: {curve.label}" for number, curve in curves)
    return chart.draw("accuracy", label, onto, WIDE, NARROW)


def _frame(axes: Axes, threat: str, largest: float) -> None:
    norm = threat.partition(":")[0]
    eps = threats.parse_any(threat).eps
    chart.accuracy_axis(axes)
    axes.set_ylabel("attacked accuracy")
    axes.set_xlim(left=0, right=1.02 * max(largest, eps))
    if "/255" not in threat:
        axes.set_xlabel(f"eps ({norm})")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        return
    # Ticks at whole grey levels, where eps is spoken of in them.
    levels = MaxNLocator(6, integer=True).tick_values(0, 255 * max(largest, eps))
    axes.set_xlabel(f"eps ({norm}), in 255ths")
    axes.set_xticks([level / 255 for level in levels if level <= 255 * 1.02 * max(largest, eps)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{255 * value:.4g}"))


def _audit(axes: Axes, summary: Mapping[str, Any]) -> None:
    eps = threats.parse_any(summary["threat"]).eps
    low, high = summary["robust_accuracy_interval"]
    certified, attacked = summary["certified_accuracy"], summary["attacked_accuracy"]
    axes.vlines(eps, low, high, color=chart.CERTIFIED, linewidth=1.2)
    axes.vlines(eps, certified, attacked, color=chart.CERTIFIED, linewidth=5, alpha=0.45)
    axes.plot([eps, eps], [certified, attacked], "_", color=chart.CERTIFIED, markersize=13, markeredgewidth=2.2)
    _mark_audited(axes, summary["threat"])


def _mark_audited(axes: Axes, threat: str) -> None:
    eps = threats.parse_any(threat).eps
    axes.axvline(eps, color=chart.MUTED, linewidth=0.9, linestyle=(0, (2, 3)), zorder=0)
    axes.text(
        eps,
        1.03,
        f"audited eps {threat.partition(':')[2]}",
        transform=axes.get_xaxis_transform(),
        horizontalalignment="right" if eps > 0.85 * axes.get_xlim()[1] else "center",
    )
