"""Table 1: what was claimed for each defence, what attacks leave that do not know it, and what the audit's leave."""

from typing import Any

import polars as pl
import torch
from jaxtyping import Bool
from matplotlib.figure import Figure
from torch import Tensor, nn

from casemate import rng
from casemate.attacks import FGSM, PGD, evaluate
from casemate.audit.cascade import in_turn
from casemate.audit.remedies.undeclared import without_surrogates
from casemate.gradients import Engine
from casemate.papers import figures
from casemate.papers.athalye2018 import published
from casemate.papers.athalye2018.defended import DEFENCES, Bench, Defence, bench
from casemate.papers.athalye2018.lid_detector import detected
from casemate.papers.athalye2018.published import Published
from casemate.papers.evaluation import Accuracy, Evaluation, evaluation, percent
from casemate.papers.item import Item, Outcome, Row, Run, Setting
from casemate.papers.networks import Network
from casemate.threat import Linf

THREAT = Linf(0.2)
N_IMAGES: dict[Setting, int] = {"small": 50, "full": 1000}
CLEAN, NAIVE, ADAPTIVE = KINDS = ("clean", "naive", "adaptive")
COLOURS = {CLEAN: figures.MUTED, NAIVE: figures.SKY, ADAPTIVE: figures.VERMILION}
UNDEFENDED = "No defence"

Standing = Bool[Tensor, "batch"]


def make(run: Run) -> Outcome:
    """Each defence built, attacked by an evaluation that misses the point, and by the audit's own attacks."""
    networks: dict[str, Network] = {}

    def network(asked: Any) -> Network:
        opened = run.network(asked)
        networks[opened.name] = opened
        return opened

    parts = bench(Run(run.setting, run.seed, network, run.progress))
    judged = evaluation(parts.natural, N_IMAGES[run.setting], run.seed)
    judged = Evaluation(THREAT, judged.x, judged.y, run.seed)
    plain = Defence(UNDEFENDED, lambda b: b.bare, "cross-entropy", Published("", None, 0))
    frames = []
    for done, defence in enumerate((plain, *DEFENCES)):
        run.progress(done, len(DEFENCES) + 2, defence.name)
        frames.append(measured(defence, parts, judged))
    run.progress(len(DEFENCES) + 1, len(DEFENCES) + 2, "LID")
    found = detected(parts, judged)
    frames.append(_frame("LID", published.LID, {CLEAN: found.clean, NAIVE: found.naive, ADAPTIVE: found.adaptive}))
    table = pl.concat(frames)
    opened = tuple(networks.values())
    rows = tuple(_row(table, name) for name in table["defence"].unique(maintain_order=True))
    return Outcome({"table1": figure(table, run, opened)}, {"accuracies": table}, rows, opened)


def measured(defence: Defence, parts: Bench, judged: Evaluation) -> pl.DataFrame:
    """Clean accuracy, and what the naive and the adaptive attacks leave of it, on the same images."""
    n = defence.n_images if parts.run.setting == "small" else len(judged.y)
    judged = Evaluation(judged.threat, judged.x[:n], judged.y[:n], judged.seed)
    model = defence.build(parts)
    engine = Engine(model, precision="float32", draws=defence.draws)
    standing = list(in_turn(engine, judged.x, judged.y, judged.threat, defence.preset(judged.threat, 10), judged.seed))
    left = naive(defence, model, engine, parts, judged)
    return _frame(defence.name, defence.published, {CLEAN: standing[0], NAIVE: left, ADAPTIVE: standing[-1]})


def naive(defence: Defence, model: nn.Module, engine: Engine, parts: Bench, judged: Evaluation) -> Standing:
    """What stands after one attack that a first evaluation would make, judged by the defended classifier."""
    x, y, threat = judged.x, judged.y, judged.threat
    if defence.naive == "unaware":
        # Examples as near as the bare network needs them, as in the grey-box evaluations of these defences.
        x_adv = evaluate(parts.bare, x, y, threat, PGD(), seed=judged.seed).x_adv
        keys = rng.image_keys(judged.seed, torch.arange(len(x), device=x.device))
        right = [engine.logits(images, keys=keys).argmax(dim=1) == y for images in (x, x_adv)]
        return right[0] & right[1]
    if defence.naive == "one draw":
        engine = Engine(without_surrogates(model), precision="float32", draws=1)
    attack = FGSM() if defence.naive == "one step" else PGD()
    return evaluate(engine, x, y, threat, attack, seed=judged.seed).right_after


def _frame(name: str, known: Published, found: dict[str, Standing]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "defence": name,
                "kind": kind,
                **Accuracy(int(right.sum()), len(right)).columns(),
                "published": {CLEAN: None, NAIVE: known.claim, ADAPTIVE: float(known.left)}[kind]
                if known.setting
                else None,
                "setting": known.setting,
                "note": known.note,
            }
            for kind, right in found.items()
        ],
        schema_overrides={"published": pl.Float64},
    )


def _row(table: pl.DataFrame, name: str) -> Row:
    lines = {row["kind"]: row for row in table.filter(pl.col("defence") == name).iter_rows(named=True)}
    claim, left = (lines[kind]["published"] for kind in (NAIVE, ADAPTIVE))
    setting = lines[CLEAN]["setting"]
    return Row(
        name,
        f"{'no accuracy' if claim is None else f'{claim:g}'} claimed, {left:g} left ({setting})" if setting else "",
        "; ".join(f"{kind} {percent(lines[kind])}" for kind in KINDS),
        lines[CLEAN]["note"],
    )


def figure(table: pl.DataFrame, run: Run, opened: tuple[Network, ...]) -> Figure:
    """A bar for each kind of accuracy, with its interval, and the published claim and break as crosses."""
    names = table["defence"].unique(maintain_order=True).to_list()

    def onto(figure: Figure) -> None:
        axes = figure.subplots()
        for place, kind in enumerate(KINDS):
            mine = table.filter(pl.col("kind") == kind)
            at = [row + 0.27 * (place - 1) for row in range(len(names))]
            share, low, high = (100 * mine[key].to_numpy() for key in ("accuracy", "low", "high"))
            axes.barh(at, share, 0.25, xerr=(share - low, high - share), color=COLOURS[kind], label=kind, capsize=2)
            printed = [(value, y) for value, y in zip(mine["published"], at, strict=True) if value is not None]
            axes.plot([x for x, _ in printed], [y for _, y in printed], "x", color=figures.INK, markersize=7)
        axes.plot([], [], "x", color=figures.INK, label="published claim and break")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy, %")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.06), ncols=4)
        axes.grid(axis="y", visible=False)

    counts = sorted(set(table["n"]))
    n = f"n = first {' or '.join(map(str, counts))} test images at {THREAT}, 95% intervals; published on other data"
    return figures.draw(
        onto,
        width=8.5,
        height=9,
        title="Defences under attacks that miss the point, and under adaptive ones",
        footer=figures.footer(run, n, opened),
    )


ITEM = Item(
    "table1",
    "claims, naive and adaptive attacks for each defence, on MNIST",
    "table 1",
    {"small": "15 minutes", "full": "half a day"},
    make,
)
