"""The figure of a table of attacks: published and measured accuracy line by line, and the matrix of transfers."""

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from casemate.papers import figures
from casemate.papers.item import Run
from casemate.papers.madry2018 import transfers
from casemate.papers.networks import Network


def figure(title: str, frame: pl.DataFrame, run: Run, networks: tuple[Network, ...], remark: str = "") -> Figure:
    """Dots for the lines of the table, and a panel each for the transfers of FGSM and of PGD."""
    attacks = frame.filter(pl.col("part") != transfers.PART)
    moved = frame.filter(pl.col("part") == transfers.PART)
    n_names = moved["target"].n_unique()

    def onto(figure: Figure) -> None:
        grid = figure.add_gridspec(2, 2, width_ratios=(1.4, 1))
        _dots(figure.add_subplot(grid[:, 0]), attacks)
        for place, method in enumerate(("FGSM", "PGD")):
            _matrix(figure.add_subplot(grid[place, 1]), moved.filter(pl.col("method") == method), method)

    return figures.draw(
        onto,
        width=10 + 0.8 * n_names,
        height=max(0.3 * len(attacks), 1.4 * n_names) + 2,
        title=f"{title}, {networks[0].recipe.threat}: accuracy under white-box and black-box attacks",
        footer=figures.footer(run, f"n = first {frame['n'][0]:,} test images, 95% intervals{remark}", networks),
    )


def _dots(axes: Axes, attacks: pl.DataFrame) -> None:
    accuracy, low, high = (100 * attacks[key].to_numpy() for key in ("accuracy", "low", "high"))
    axes.errorbar(
        accuracy,
        range(len(attacks)),
        xerr=(accuracy - low, high - accuracy),
        fmt="o",
        color=figures.BLUE,
        markersize=5,
        linewidth=1.2,
        label="ours",
    )
    printed = attacks.with_row_index("place").drop_nulls("published")
    axes.plot(
        printed["published"].to_numpy(),
        printed["place"].to_numpy(),
        "D",
        color=figures.VERMILION,
        fillstyle="none",
        label="published",
    )
    axes.set_yticks(range(len(attacks)), attacks["label"].to_list())
    axes.invert_yaxis()
    axes.set_xlabel("accuracy, %")
    axes.legend(loc="upper left", fontsize=8)


def _matrix(axes: Axes, cells: pl.DataFrame, method: str) -> None:
    names = cells["target"].unique(maintain_order=True).to_list()
    shares = 100 * cells["accuracy"].to_numpy().reshape(len(names), len(names))
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    for place, published in enumerate(cells["published"]):
        row, column = divmod(place, len(names))
        share = shares[row, column]
        text = f"{share:.1f}" if published is None else f"{share:.1f}\n({published:.1f})"
        colour = "white" if share < 55 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), [transfers.primed(name).replace(" ", "\n") for name in names])
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("source, an independent copy")
    axes.set_ylabel("target")
    axes.set_title(f"transferred {method} examples, ours (published)")
    axes.grid(visible=False)
