"""Table 4, MNIST: what networks trained by intervals keep clean, under attack and for certain, at four radii.

As in the paper one network answers for the smallest radius and another, trained at a larger one, for the others.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl
import torch
from matplotlib.figure import Figure

from casemate.audit.cascade import in_turn
from casemate.audit.presets import standard
from casemate.bounds import IBP
from casemate.gradients import Engine
from casemate.papers import figures
from casemate.papers.evaluation import Accuracy, Evaluation, evaluation, percent
from casemate.papers.item import Item, Outcome, Row, Run, Setting
from casemate.papers.networks import Network
from casemate.threat import Linf

# Which network answers at which eps.
RADII = {0.1: "mnist-near", 0.2: "mnist-far", 0.3: "mnist-far", 0.4: "mnist-far"}
N_IMAGES: dict[Setting, int] = {"small": 1000, "full": 10_000}
CLEAN, ATTACKED, CERTIFIED = KINDS = ("clean", "attacked", "certified")
# Percent, of the authors' released networks (their readme): the certified ones by intervals alone, as ours. The
# attacked ones are after PGD with 20 steps of Adam.
PUBLISHED = {
    0.1: {CLEAN: 98.94, ATTACKED: 97.99, CERTIFIED: 97.08},
    0.2: {CLEAN: 98.34, ATTACKED: 97.06, CERTIFIED: 95.47},
    0.3: {CLEAN: 98.34, ATTACKED: 96.03, CERTIFIED: 91.79},
    0.4: {CLEAN: 98.34, ATTACKED: 94.56, CERTIFIED: 84.99},
}
COLOURS = {CLEAN: figures.MUTED, ATTACKED: figures.VERMILION, CERTIFIED: figures.BLUE}


def make(run: Run) -> Outcome:
    """Both networks trained, and their clean, attacked and certified accuracies on the first test images."""
    opened = {name: run.network(name) for name in dict.fromkeys(RADII.values())}
    frames = []
    for done, (eps, name) in enumerate(RADII.items()):
        run.progress(done, len(RADII), f"linf:{eps:g}")
        judged = evaluation(opened[name], N_IMAGES[run.setting], run.seed)
        frames.append(measured(opened[name], Evaluation(Linf(eps), judged.x, judged.y, judged.seed)))
    table = pl.concat(frames)
    rows = [*(_row(row) for row in table.iter_rows(named=True)), *_gaps(table), *_times(opened)]
    return Outcome({"mnist": figure(table, run, opened)}, {"accuracies": table}, tuple(rows), tuple(opened.values()))


def measured(network: Network, judged: Evaluation) -> pl.DataFrame:
    """A row for clean, attacked and certified accuracy; images that are certified are not attacked."""
    engine = Engine(network.model, precision="float32")
    x, y = judged.x, judged.y
    clean = engine.logits(x).argmax(dim=1) == y
    proved = IBP().certify(network.model, x, y, judged.threat).holds
    at = (clean & ~proved).nonzero().squeeze(1)
    standing = proved.clone()
    if len(at):
        *_, left = in_turn(engine, x[at], y[at], judged.threat, standard(judged.threat, 10), judged.seed)
        standing[at] = left
    found: Mapping[str, torch.Tensor] = {CLEAN: clean, ATTACKED: standing, CERTIFIED: proved}
    return pl.DataFrame(
        [
            {
                "eps": judged.threat.eps,
                "network": network.name,
                "kind": kind,
                "published": PUBLISHED[judged.threat.eps][kind],
                **Accuracy(int(right.sum()), len(y)).columns(),
            }
            for kind, right in found.items()
        ]
    )


def _row(row: dict[str, Any]) -> Row:
    how = {CLEAN: "", ATTACKED: "the `standard` cascade; theirs PGD-20 by Adam", CERTIFIED: "intervals alone"}
    return Row(f"MNIST, linf:{row['eps']:g}: {row['kind']}", f"{row['published']:.2f}", percent(row), how[row["kind"]])


def _gaps(table: pl.DataFrame) -> list[Row]:
    """How far the two ends are apart: what is neither broken nor proved."""
    rows = []
    for eps in RADII:
        ours = {kind: table.row(by_predicate=_at(eps, kind), named=True)["accuracy"] for kind in KINDS}
        theirs = PUBLISHED[eps][ATTACKED] - PUBLISHED[eps][CERTIFIED]
        rows.append(
            Row(
                f"MNIST, linf:{eps:g}: attacked minus certified",
                f"{theirs:.2f} points",
                f"{100 * (ours[ATTACKED] - ours[CERTIFIED]):.1f} points",
            )
        )
    return rows


def _times(opened: Mapping[str, Network]) -> list[Row]:
    return [
        Row(
            f"training of {network.name}",
            "not printed; 60,000 steps of 200 images",
            f"{network.card['seconds'] / 60:.0f} minutes, {network.card['cpu_seconds'] / 60:.0f} of processor time",
            f"{network.card['steps']:,} steps of {network.recipe.batch_size} images",
        )
        for network in opened.values()
    ]


def _at(eps: float, kind: str) -> pl.Expr:
    return (pl.col("eps") == eps) & (pl.col("kind") == kind)


def figure(table: pl.DataFrame, run: Run, opened: Mapping[str, Network]) -> Figure:
    """The bracket against eps: certified accuracy below, attacked accuracy above, and the published ones as crosses."""

    def onto(figure: Figure) -> None:
        axes = figure.subplots()
        for kind in KINDS:
            mine = table.filter(pl.col("kind") == kind).sort("eps")
            share = 100 * mine["accuracy"].to_numpy()
            bars = [
                100 * (mine["accuracy"] - mine["low"]).to_numpy(),
                100 * (mine["high"] - mine["accuracy"]).to_numpy(),
            ]
            axes.errorbar(mine["eps"].to_numpy(), share, bars, fmt="o-", color=COLOURS[kind], capsize=3, label=kind)
            axes.plot(mine["eps"].to_numpy(), mine["published"].to_numpy(), "x", color=COLOURS[kind], markersize=8)
        axes.plot([], [], "x", color=figures.INK, label="published")
        axes.set_xticks(list(RADII))
        axes.set_xlabel("linf radius")
        axes.set_ylabel("accuracy, %")
        axes.legend(fontsize=8, loc="lower left")

    n = table["n"][0]
    return figures.draw(
        onto,
        width=7,
        height=4.5,
        title="Trained by intervals: what is kept clean, under attack and for certain, MNIST",
        footer=figures.footer(run, f"n = first {n:,} test images, 95% intervals", opened.values()),
    )


ITEM = Item(
    "mnist",
    "clean, attacked and certified accuracy at four radii",
    "table 4, MNIST",
    {"small": "2 minutes", "full": "1 hour"},
    make,
)
