"""Table 1 on CIFAR-10: what defences claimed, what attacks that ignore them leave, and what ours do.

The attack that ignores a defence is PGD-40 as its authors might have run it: the gradient is autograd's own, of one
draw. Ours are the stages of the audit's own cascade, which follow what each defence declares and average over its
draws: those of `standard`, or of `quick` where one answer costs as much as a hundred of the network's.
"""

from typing import Any

import polars as pl
import torch
from matplotlib.figure import Figure

from casemate import rng
from casemate.attacks import PGD, RandomPoints
from casemate.audit.cascade import in_turn
from casemate.audit.presets import quick, standard
from casemate.audit.remedies.undeclared import without_surrogates
from casemate.errors import NoGradient
from casemate.gradients import Engine
from casemate.papers import figures
from casemate.papers.athalye2018.cifar10_defences import DEFENDED, Defended, build
from casemate.papers.evaluation import Accuracy, Evaluation, evaluation, percent
from casemate.papers.item import Item, Outcome, Row, Run, Setting
from casemate.papers.networks import Network

# Of the test set; and of it for the costly defences.
N_IMAGES: dict[Setting, int] = {"small": 100, "full": 1000}
N_COSTLY: dict[Setting, int] = {"small": 20, "full": 200}
NAIVE = PGD(n_steps=40)
CLEAN, NAIVELY, ADAPTIVELY = KINDS = ("clean", "ignoring the defence", "our audit")
COLOURS = {CLEAN: figures.MUTED, NAIVELY: figures.SKY, ADAPTIVELY: figures.VERMILION}


def make(run: Run) -> Outcome:
    """Every network trained, every defence put around it, and its accuracies on the first test images."""
    opened: dict[str, Network] = {}
    frames = []
    for done, defended in enumerate(DEFENDED):
        run.progress(done, len(DEFENDED), defended.name)
        if defended.network not in opened:
            opened[defended.network] = run.network(defended.network)
        network = opened[defended.network]
        n = (N_COSTLY if defended.costly else N_IMAGES)[run.setting]
        frames.append(measured(defended, network, evaluation(network, n, run.seed)))
    table = pl.concat(frames)
    rows = tuple(_row(defended, table) for defended in DEFENDED)
    return Outcome({"cifar10": figure(table, run, opened)}, {"accuracies": table}, rows, tuple(opened.values()))


def measured(defended: Defended, network: Network, judged: Evaluation) -> pl.DataFrame:
    """A row for clean accuracy, for what the attack that ignores the defence leaves, and for what ours leave."""
    model = build(defended, network)
    engine = Engine(model, precision="float32")
    keys = rng.image_keys(judged.seed, torch.arange(len(judged.y), device=judged.y.device))
    clean = engine.logits(judged.x, keys=keys).argmax(dim=1) == judged.y
    stages = (quick if defended.costly else standard)(judged.threat, 10)
    *_, left = in_turn(engine, judged.x, judged.y, judged.threat, stages, judged.seed)
    found = {CLEAN: clean, NAIVELY: _naively(engine, judged, keys) & clean, ADAPTIVELY: left}
    return pl.DataFrame(
        [
            {"defence": defended.name, "kind": kind, **Accuracy(int(right.sum()), len(right)).columns()}
            for kind, right in found.items()
        ]
    )


def _naively(engine: Engine, judged: Evaluation, keys: rng.Keys) -> torch.Tensor:
    """Which images stand after `NAIVE`, or after random points where autograd finds no gradient at all."""
    naive = Engine(engine.model, precision="float32", draws=1, stand_in=without_surrogates(engine.model))
    arguments = (judged.x, judged.y, judged.threat)
    try:
        x_adv = NAIVE(naive, *arguments, keys=rng.fold(keys, "naive"))
    except NoGradient:
        x_adv = RandomPoints(n_points=100)(engine, *arguments, keys=rng.fold(keys, "naive"))
    return engine.logits(x_adv, keys=keys).argmax(dim=1) == judged.y


def _of(table: pl.DataFrame, name: str, kind: str) -> dict[str, Any]:
    return table.row(by_predicate=(pl.col("defence") == name) & (pl.col("kind") == kind), named=True)


def _row(defended: Defended, table: pl.DataFrame) -> Row:
    claimed = "" if defended.claimed is None else f"claimed {defended.claimed:g}, "
    broken = "not in the table" if defended.broken is None else f"broken to {defended.broken:g}"
    ours = {kind: _of(table, defended.name, kind) for kind in KINDS}
    return Row(
        defended.name,
        claimed + broken,
        f"clean {percent(ours[CLEAN])}; {NAIVELY} {percent(ours[NAIVELY])}; {ADAPTIVELY} {percent(ours[ADAPTIVELY])}",
        f"theirs on {defended.on}, {defended.by}; ours by {'quick' if defended.costly else 'standard'}"
        if defended.on
        else "",
    )


def figure(table: pl.DataFrame, run: Run, opened: dict[str, Network]) -> Figure:
    """Bars for what is left of each defence, a ring where its authors put it and a cross where its break did."""

    def onto(figure: Figure) -> None:
        axes = figure.subplots()
        for place, defended in enumerate(DEFENDED):
            for offset, kind in zip((-0.27, 0, 0.27), KINDS, strict=True):
                row = _of(table, defended.name, kind)
                share = 100 * row["accuracy"]
                error = [[share - 100 * row["low"]], [100 * row["high"] - share]]
                axes.barh(place + offset, share, 0.25, xerr=error, color=COLOURS[kind], ecolor=figures.RULE)
            if defended.claimed is not None:
                axes.plot(defended.claimed, place, "o", color=figures.INK, fillstyle="none")
            if defended.broken is not None:
                axes.plot(defended.broken, place, "x", color=figures.INK)
        for kind in KINDS:
            axes.barh(0, 0, color=COLOURS[kind], label=kind)
        axes.plot([], [], "o", color=figures.INK, fillstyle="none", linestyle="", label="published: claimed")
        axes.plot([], [], "x", color=figures.INK, linestyle="", label="published: broken")
        axes.set_yticks(range(len(DEFENDED)), [defended.name for defended in DEFENDED])
        axes.invert_yaxis()
        axes.set_xlim(-2, 100)
        axes.set_xlabel("accuracy, %")
        axes.grid(axis="y", visible=False)
        axes.legend(fontsize=8, loc="lower right")

    counts = f"n = first {N_IMAGES[run.setting]} test images, {N_COSTLY[run.setting]} for the costly, 95% intervals"
    return figures.draw(
        onto,
        width=7.5,
        height=7,
        title="Defences on CIFAR-10 at linf 8/255: claimed, ignored, and seen through",
        footer=figures.footer(run, counts, opened.values()),
    )


ITEM = Item(
    "cifar10",
    "defences on CIFAR-10 as claimed, as attacked blindly and as attacked adaptively",
    "table 1, and Tramer et al. 2020 for k winners",
    {"small": "15 minutes", "full": "a day on a GPU"},
    make,
)
