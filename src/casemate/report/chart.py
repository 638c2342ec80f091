"""Charts as inline SVG: drawn by matplotlib, coloured and set by the page.

A chart is drawn in placeholder colours that become CSS variables, with text left as text, so that it follows the page's
font and its light or dark colours. Each is drawn twice, for a wide and a narrow page, at one unit for one CSS pixel.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# Placeholder -> CSS variable of page.css. The values only have to be distinct and used by nothing else.
INK, MUTED, RULE, PAPER = "#010203", "#010204", "#010205", "#010206"
CERTIFIED, UNRESOLVED, BROKEN, MISCLASSIFIED = "#010207", "#010208", "#010209", "#01020a"
SERIES = ("#010210", "#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAPER: "--paper",
    CERTIFIED: "--certified",
    UNRESOLVED: "--unresolved",
    BROKEN: "--broken",
    MISCLASSIFIED: "--misclassified",
    **{colour: f"--series-{i}" for i, colour in enumerate(SERIES)},
}
# `Any`: versions of matplotlib differ in how they type their settings.
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "casemate",
    # Dollar signs in names are text.
    "text.parse_math": False,
    "font.size": 12.0,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 12.0,
    "axes.titlelocation": "left",
    "axes.labelpad": 6.0,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.06,
}
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.0f}%")
_UNITS_PER_INCH = 72  # of matplotlib's SVG


@dataclass(frozen=True)
class Size:
    """In CSS pixels."""

    width: int
    height: int


def draw(name: str, label: str, onto: Callable[[Figure], None], wide: Size, narrow: Size) -> Markup:
    """The chart that `onto` draws, for both widths, as one element with the accessible `label`.

    `name` is unique on the page: it keeps the ids inside the SVG apart.
    """
    drawings = [
        Markup('<div class="{}">{}</div>').format(width, _svg(f"{name}-{width}", onto, size))
        for width, size in (("wide", wide), ("narrow", narrow))
    ]
    return Markup('<div class="chart" role="img" aria-label="{}">{}</div>').format(label, Markup("").join(drawings))


def is_narrow(figure: Figure) -> bool:
    return figure.get_figwidth() * _UNITS_PER_INCH < 500


def accuracy_axis(axes: Axes) -> None:
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PERCENT)
    axes.grid(axis="x", visible=False)


def _svg(prefix: str, onto: Callable[[Figure], None], size: Size) -> Markup:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the page
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(
            figsize=(size.width / _UNITS_PER_INCH, size.height / _UNITS_PER_INCH),
            facecolor="none",
            layout="constrained",
        )
        onto(figure)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return Markup(_inline(written.getvalue(), prefix, size))


def _inline(svg: str, prefix: str, size: Size) -> str:
    """The drawing without what only a file needs, its ids made unique, its colours and font the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<svg[^>]*>", _opening(size), svg, count=1)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'(?<= id=")', f"{prefix}-", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r' (?:d|x|y|width|height|transform)="[^"]*"', _rounded, svg)
    # The font itself is the page's; matplotlib writes it in one of two forms, depending on its version.
    svg = re.sub(r"font: (?:[^;\"]*? )?([\d.]+px) [^;\"]*", r"font-size: \g<1>", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    return re.sub(r"\n\s*", "\n", svg).strip()


def _opening(size: Size) -> str:
    return f'<svg viewBox="0 0 {size.width} {size.height}" aria-hidden="true">'


def _rounded(attribute: re.Match[str]) -> str:
    """Tenths of a pixel: a third of the bytes and no visible difference."""
    return re.sub(r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), attribute[0])
