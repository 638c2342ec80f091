"""CIFAR-10 on two processor cores: how far fast adversarial training comes in hours where the paper took days of a GPU.

Single-step training by N-FGSM (de Jorge et al. 2022) of a network that shrinks its images early, with a guard against
catastrophic overfitting (Wong et al. 2020) and the average of the weights, against the paper's wide network.
"""

import json
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from casemate.attacks import PGD, Restarts
from casemate.audit.cascade import Stage, in_turn
from casemate.gradients import Engine
from casemate.losses import Logits
from casemate.papers import figures
from casemate.papers.evaluation import Accuracy, Evaluation, evaluation, percent
from casemate.papers.item import Item, Outcome, Row, Run, Setting
from casemate.papers.madry2018.pair import DATA_SETS
from casemate.papers.networks import Network
from casemate.threat import Images
from casemate.training.log import LOG

CIFAR10 = DATA_SETS[1]
RECIPE = "cifar10-fast"
N_IMAGES: dict[Setting, int] = {"small": 200, "full": 1000}
CLEAN, PAPERS = "clean", "PGD-20"
PGD20 = PGD(n_steps=20, step_size=CIFAR10.step_size)
# By the loss that breaks most first, each on the images that those before it left standing.
N_RESTARTS = 10
LOSSES = ("margin", "dlr", "cross-entropy")
IN_TURN = tuple(
    Stage(f"PGD-50 x {N_RESTARTS} on {' + '.join(LOSSES[:place])}", Restarts(PGD(n_steps=50, loss=loss), N_RESTARTS))
    for place, loss in enumerate(LOSSES, 1)
)
STRONGEST = IN_TURN[-1].name
# Table 2 for the wide network; against the strongest attack, the lowest on the challenge's leaderboard.
PUBLISHED = {CLEAN: 87.3, PAPERS: 45.8, STRONGEST: 43.95}
# Whose answer is judged: that of the network, or its mean over an image and its mirror image.
AS_IT_IS, MIRRORED = "as it is", "with mirror images"
COLOURS = {CLEAN: figures.BLUE, PAPERS: figures.ORANGE}


class Mirrored(nn.Module):
    """The mean of the logits of `network` for each image and for its mirror image, which attacks go through as well."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Images) -> Logits:
        answer: Tensor = (self.network(x) + self.network(x.flip(3))) / 2
        return answer


def make(run: Run) -> Outcome:
    """The network trained and attacked, and its accuracy on held-out images against the time of training."""
    network = run.network(RECIPE)
    curve = training_curve(network)
    judged = evaluation(network, N_IMAGES[run.setting], run.seed)
    answers = {AS_IT_IS: network.model, MIRRORED: Mirrored(network.model)}
    accuracies = pl.concat([measured(model, answer, judged, run) for answer, model in answers.items()])
    return Outcome(
        {CIFAR10.name: figure(curve, accuracies, run, network)},
        {"training": curve, "accuracies": accuracies},
        (*(_row(row) for row in accuracies.iter_rows(named=True)), *_training_rows(network, curve)),
        (network,),
    )


def measured(model: nn.Module, answer: str, judged: Evaluation, run: Run) -> pl.DataFrame:
    """One row for each attack: what it leaves of the accuracy on the first test images, and the published value."""
    engine = Engine(model, precision="float32")
    names = [CLEAN, *(stage.name for stage in IN_TURN)]
    run.progress(0, len(names), PAPERS)
    left = {PAPERS: judged.accuracy(engine, PGD20)}
    standing = in_turn(engine, judged.x, judged.y, judged.threat, IN_TURN, judged.seed)
    for done, name in enumerate(names, 1):
        left[name] = Accuracy(int(next(standing).sum()), len(judged.y))
        run.progress(done, len(names), f"{answer}, {name}: {left[name].right} of {left[name].n} stand")
    return pl.DataFrame(
        [
            {"answer": answer, "attack": name, "published": PUBLISHED.get(name), **left[name].columns()}
            for name in (CLEAN, PAPERS, *names[1:])
        ]
    )


def training_curve(network: Network) -> pl.DataFrame:
    """The checks of the training's log: seconds of training and accuracies in [0, 1] on held-out training images."""
    lines = [json.loads(line) for line in (network.folder / LOG).read_text().splitlines()]
    columns = ("step", "epoch", "seconds", "clean_accuracy", "one_step_accuracy", "attacked_accuracy")
    return pl.DataFrame([{key: line[key] for key in columns} for line in lines if line["kind"] == "check"])


def _row(row: dict[str, Any]) -> Row:
    published = "not printed" if row["published"] is None else f"{row['published']:g}"
    which = "" if row["answer"] == AS_IT_IS else f", {MIRRORED}"
    return Row(f"CIFAR-10: {row['attack']}{which}", published, percent(row), f"n = {row['n']}")


def _training_rows(network: Network, curve: pl.DataFrame) -> list[Row]:
    card = network.card
    alarm = "went off" if card["catastrophic_overfitting"] else "never went off"
    gap = 100 * (curve["one_step_accuracy"] - curve["attacked_accuracy"]).to_numpy().max()
    return [
        Row(
            "CIFAR-10: time of training",
            "not printed; 80,000 steps of 128 images, 8 gradients each",
            f"{card['seconds'] / 60:.0f} minutes, {card['cpu_seconds'] / 60:.0f} of processor time",
            f"{card['steps']:,} steps of {network.recipe.batch_size} images, 2 gradients each",
        ),
        Row(
            "CIFAR-10: catastrophic overfitting",
            "the alarm of Wong et al. 2020",
            f"{alarm} at {len(curve)} checks",
            f"FGSM leaves at most {gap:.1f} points more than PGD-{network.recipe.check.n_steps}",
        ),
    ]


def figure(curve: pl.DataFrame, accuracies: pl.DataFrame, run: Run, network: Network) -> Figure:
    """Left: held-out accuracies against minutes of training. Right: what each attack leaves on test images."""

    def onto(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _curve(left, curve, network)
        _bars(right, accuracies)

    return figures.draw(
        onto,
        width=10,
        height=4,
        title=f"CIFAR-10 on {network.card['threads']} thread{'s' * (network.card['threads'] != 1)}, "
        f"{network.recipe.threat}: accuracy against training time",
        footer=figures.footer(
            run,
            f"n = first {accuracies['n'][0]:,} test images, 95% intervals; published: the wide network",
            [network],
            full="a network and a training for two cores, not the paper's",
        ),
    )


def _curve(axes: Axes, curve: pl.DataFrame, network: Network) -> None:
    check = network.recipe.check
    for column, colour, label in (
        ("clean_accuracy", COLOURS[CLEAN], "clean"),
        ("one_step_accuracy", figures.MUTED, "FGSM"),
        ("attacked_accuracy", COLOURS[PAPERS], f"PGD-{check.n_steps}, margin loss"),
    ):
        axes.plot(curve["seconds"].to_numpy() / 60, 100 * curve[column].to_numpy(), "o-", color=colour, label=label)
    axes.set_xlabel("minutes of training")
    axes.set_ylabel(f"accuracy on {check.n} held-out images, %")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    axes.legend(fontsize=8, loc="upper left")


def _bars(axes: Axes, accuracies: pl.DataFrame) -> None:
    for offset, alpha, answer in ((-0.2, 1.0, AS_IT_IS), (0.2, 0.5, MIRRORED)):
        mine = accuracies.filter(pl.col("answer") == answer)
        for place, row in enumerate(mine.iter_rows(named=True)):
            accuracy, low, high = (100 * row[key] for key in ("accuracy", "low", "high"))
            colour = COLOURS.get(row["attack"], figures.VERMILION)
            bars = [[accuracy - low], [high - accuracy]]
            axes.bar(place + offset, accuracy, 0.38, yerr=bars, color=colour, alpha=alpha, capsize=3)
            if row["published"] is not None and answer == AS_IT_IS:
                label = "" if place else "published"
                axes.plot(place, row["published"], "D", color=figures.INK, fillstyle="none", label=label)
    axes.bar(0, 0, color=figures.MUTED, alpha=0.5, label=MIRRORED)
    names = [
        name.replace(" on ", "\n").replace(" + ", "\n+ ") for name in accuracies["attack"].unique(maintain_order=True)
    ]
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy, %")
    axes.legend(fontsize=8, loc="upper right")
    figures.no_vertical_grid(axes)


ITEM = Item(
    "cifar10",
    "CIFAR-10 on two cores: fast adversarial training, and its accuracy against training time",
    "section 5 and table 2; the challenge's leaderboard",
    {"small": "3 minutes", "full": "two hours"},
    make,
)
