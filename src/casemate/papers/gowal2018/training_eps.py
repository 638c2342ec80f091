"""What the radius in training does to what is certified at each radius (section 4.2)."""

import polars as pl
import torch
from matplotlib.figure import Figure

from casemate.bounds import IBP
from casemate.gradients import Engine
from casemate.papers import figures
from casemate.papers.evaluation import Accuracy, evaluation, percent
from casemate.papers.item import Item, Outcome, Row, Run, Setting
from casemate.papers.networks import Network
from casemate.threat import Linf

TRAINED = (0.1, 0.2, 0.3, 0.4)
ASKED = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
N_IMAGES: dict[Setting, int] = {"small": 10_000, "full": 10_000}
COLOURS = dict(zip(TRAINED, (figures.BLUE, figures.VERMILION, figures.INK, figures.MUTED), strict=True))


def make(run: Run) -> Outcome:
    """A network for each radius in training, certified by intervals at all radii asked for."""
    opened = {eps: run.network(f"mnist-at-{eps:g}") for eps in TRAINED}
    frames = []
    for done, (trained, network) in enumerate(opened.items()):
        run.progress(done, len(opened), network.name)
        frames.append(certified(network, trained, N_IMAGES[run.setting], run.seed))
    table = pl.concat(frames)
    rows = tuple(
        Row(f"trained at {row['trained']:g}, certified at {row['eps']:g}", "", percent(row))
        for row in table.iter_rows(named=True)
        if row["eps"] in TRAINED
    )
    return Outcome({"training-eps": figure(table, run, opened)}, {"certified": table}, rows, tuple(opened.values()))


def certified(network: Network, trained: float, n: int, seed: int) -> pl.DataFrame:
    """Clean accuracy, at eps 0, and certified accuracy at each radius."""
    judged = evaluation(network, n, seed)
    clean = Engine(network.model, precision="float32").logits(judged.x).argmax(dim=1) == judged.y
    found: dict[float, torch.Tensor] = {0.0: clean}
    for eps in ASKED:
        found[eps] = IBP().certify(network.model, judged.x, judged.y, Linf(eps)).holds
    return pl.DataFrame(
        [
            {"trained": trained, "eps": eps, **Accuracy(int(right.sum()), len(judged.y)).columns()}
            for eps, right in found.items()
        ]
    )


def figure(table: pl.DataFrame, run: Run, opened: dict[float, Network]) -> Figure:
    """Certified accuracy against the radius, a line for each radius in training."""

    def onto(figure: Figure) -> None:
        axes = figure.subplots()
        for trained in TRAINED:
            mine = table.filter(pl.col("trained") == trained).sort("eps")
            share = 100 * mine["accuracy"].to_numpy()
            axes.plot(mine["eps"].to_numpy(), share, "o-", color=COLOURS[trained], label=f"trained at {trained:g}")
        axes.set_xlabel("linf radius asked for")
        axes.set_ylabel("certified accuracy, %")
        axes.legend(fontsize=8, loc="lower left")

    n = table["n"][0]
    return figures.draw(
        onto,
        width=7,
        height=4.5,
        title="Certified accuracy by the radius in training, MNIST",
        footer=figures.footer(run, f"n = first {n:,} test images", opened.values()),
    )


ITEM = Item(
    "training-eps",
    "certified accuracy against the radius, by the radius in training",
    "section 4.2, MNIST",
    {"small": "20 minutes", "full": "1 hour"},
    make,
)
