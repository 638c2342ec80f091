"""The two ends of the bracket of a network: clean, attacked and certified accuracy at several radii.

One network may answer for one radius and another for others, as in the papers on certified training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from matplotlib.figure import Figure

from casemate.audit.cascade import in_turn
from casemate.audit.presets import standard
from casemate.bounds import IBP, Certifier
from casemate.gradients import Engine
from casemate.papers import figures
from casemate.papers.evaluation import Accuracy, Evaluation, evaluation, percent
from casemate.papers.item import Outcome, Row, Run, Setting
from casemate.papers.networks import Network
from casemate.threat import Linf

N_IMAGES: dict[Setting, int] = {"small": 1000, "full": 10_000}
CLEAN, ATTACKED, CERTIFIED = KINDS = ("clean", "attacked", "certified")
COLOURS = {CLEAN: figures.MUTED, ATTACKED: figures.VERMILION, CERTIFIED: figures.BLUE}


@dataclass(frozen=True)
class Bracket:
    """A data set, which network answers at which eps, and what is published there, in percent.

    `length` is that of their training in words, and `attack` what their attacked accuracy is after. Images are
    certified by the first of the `certifiers` that proves them.
    """

    item: str
    title: str
    networks: Mapping[float, str]
    published: Mapping[float, Mapping[str, float]]
    length: str
    attack: str
    certifiers: tuple[Certifier, ...] = (IBP(),)

    def make(self, run: Run) -> Outcome:
        """All networks trained, and their clean, attacked and certified accuracies on the first test images."""
        opened = {name: run.network(name) for name in dict.fromkeys(self.networks.values())}
        frames = []
        for done, (eps, name) in enumerate(self.networks.items()):
            run.progress(done, len(self.networks), label(eps))
            judged = evaluation(opened[name], N_IMAGES[run.setting], run.seed)
            judged = Evaluation(Linf(eps), judged.x, judged.y, judged.seed)
            found = measured(opened[name], judged, self.certifiers)
            published = pl.Series("published", [self.published[eps][kind] for kind in found["kind"]])
            frames.append(found.with_columns(published))
        table = pl.concat(frames)
        rows = [*(self._row(row) for row in table.iter_rows(named=True)), *self._gaps(table), *self._times(opened)]
        return Outcome(
            {self.item: self._figure(table, run, opened)}, {"accuracies": table}, tuple(rows), tuple(opened.values())
        )

    def _row(self, row: dict[str, Any]) -> Row:
        proof = " and ".join(type(certifier).__name__ for certifier in self.certifiers)
        how = {CLEAN: "", ATTACKED: f"the `standard` cascade; theirs {self.attack}", CERTIFIED: f"by {proof}"}
        return Row(
            f"{self.title}, {label(row['eps'])}: {row['kind']}",
            f"{row['published']:.2f}",
            percent(row),
            how[row["kind"]],
        )

    def _gaps(self, table: pl.DataFrame) -> list[Row]:
        """How far the two ends are apart: what is neither broken nor proved."""
        rows = []
        for eps in self.networks:
            ours = {kind: table.row(by_predicate=_at(eps, kind), named=True)["accuracy"] for kind in KINDS}
            theirs = self.published[eps][ATTACKED] - self.published[eps][CERTIFIED]
            rows.append(
                Row(
                    f"{self.title}, {label(eps)}: attacked minus certified",
                    f"{theirs:.2f} points",
                    f"{100 * (ours[ATTACKED] - ours[CERTIFIED]):.1f} points",
                )
            )
        return rows

    def _times(self, opened: Mapping[str, Network]) -> list[Row]:
        return [
            Row(
                f"training of {network.name}",
                self.length,
                f"{network.card['seconds'] / 60:.0f} minutes, {network.card['cpu_seconds'] / 60:.0f} of processor time",
                f"{network.card['steps']:,} steps of {network.recipe.batch_size} images",
            )
            for network in opened.values()
        ]

    def _figure(self, table: pl.DataFrame, run: Run, opened: Mapping[str, Network]) -> Figure:
        """Certified accuracy below, attacked accuracy above, against eps; the published ones as crosses."""

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
            axes.set_xticks(list(self.networks), [label(eps).removeprefix("linf:") for eps in self.networks])
            axes.set_xlabel("linf radius")
            axes.set_ylabel("accuracy, %")
            axes.legend(fontsize=8, loc="lower left")

        n = table["n"][0]
        return figures.draw(
            onto,
            width=7,
            height=4.5,
            title=f"{self.title}: clean, under attack and for certain",
            footer=figures.footer(run, f"n = first {n:,} test images, 95% intervals", opened.values()),
        )


def measured(network: Network, judged: Evaluation, certifiers: Sequence[Certifier]) -> pl.DataFrame:
    """A row for clean, attacked and certified accuracy; images that are certified are not attacked."""
    engine = Engine(network.model, precision="float32")
    x, y = judged.x, judged.y
    clean = engine.logits(x).argmax(dim=1) == y
    proved = torch.zeros_like(clean)
    for certifier in certifiers:
        at = (clean & ~proved).nonzero().squeeze(1)
        if len(at):
            proved[at] = certifier.certify(network.model, x[at], y[at], judged.threat).holds
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
                **Accuracy(int(right.sum()), len(y)).columns(),
            }
            for kind, right in found.items()
        ]
    )


def label(eps: float) -> str:
    """linf:0.3, or in steps of a byte where that is what was meant: linf:8/255."""
    steps = 255 * eps
    return f"linf:{round(steps)}/255" if abs(steps - round(steps)) < 1e-6 else f"linf:{eps:g}"


def _at(eps: float, kind: str) -> pl.Expr:
    return (pl.col("eps") == eps) & (pl.col("kind") == kind)
