"""What the paper says about capacity, in numbers and in words, beside what was measured."""

from collections.abc import Sequence

import polars as pl

from casemate.papers.evaluation import percent, rises
from casemate.papers.item import Row
from casemate.papers.madry2018.families import SIMPLE, WIDE
from casemate.papers.madry2018.pair import DataSet

# The paper states these claims in words; the limit is ours.
ABOUT_NONE = 0.05

# Figure 4 and table 5 of appendix D: CIFAR-10, what is left in percent, for the simple and the wide network.
PUBLISHED: dict[tuple[str, str], tuple[float, float]] = {
    ("natural", "natural"): (92.7, 95.2),
    ("natural", "FGSM"): (27.5, 32.7),
    ("natural", "PGD"): (0.8, 3.5),
    ("natural", "7-step PGD"): (1.2, 4.1),
    ("natural", "random-start FGSM"): (19.6, 25.1),
    ("FGSM", "natural"): (87.4, 90.3),
    ("FGSM", "FGSM"): (90.9, 95.1),
    ("FGSM", "PGD"): (0.0, 0.0),
    ("FGSM", "7-step PGD"): (0.0, 0.0),
    ("FGSM", "random-start FGSM"): (90.4, 95.0),
    ("PGD", "natural"): (79.4, 87.3),
    ("PGD", "FGSM"): (51.7, 56.1),
    ("PGD", "PGD"): (43.7, 45.8),
    ("PGD", "7-step PGD"): (47.1, 50.0),
    ("PGD", "random-start FGSM"): (55.9, 60.3),
}
PUBLISHED_LOSS = {"natural": (0.00357, 0.00371), "FGSM": (0.0115, 0.00557), "PGD": (1.11, 0.0218)}
PLACE = {SIMPLE: 0, WIDE: 1}
# Figure 8 of appendix D, large network: MNIST, FGSM training, on natural, FGSM and PGD examples.
PUBLISHED_LEAKING = {("mnist", "16"): "92.9, 99.9, 0.0"}

Frames = dict[str, pl.DataFrame]


def rows(dataset: DataSet, frames: Frames) -> list[Row]:
    """The printed numbers, where there are any, and then the claims."""
    printed = printed_rows(dataset, frames) if dataset.name == "cifar10" else []
    return [*printed, *claims(dataset, frames)]


def printed_rows(dataset: DataSet, frames: Frames) -> list[Row]:
    """CIFAR-10: every number of the paper's table beside ours."""
    accuracies = [
        Row(
            f"{dataset.title}, {row['capacity']}, {row['training']} training: accuracy on {row['adversary']} examples",
            f"{PUBLISHED[row['training'], row['adversary']][PLACE[row['capacity']]]:.1f}",
            percent(row),
            f"n = {row['n']}",
        )
        for row in frames["accuracies"].iter_rows(named=True)
    ]
    losses = [
        Row(
            f"{dataset.title}, {row['capacity']}, {row['training']} training: loss on its own training examples",
            f"{PUBLISHED_LOSS[row['training']][PLACE[row['capacity']]]:.3g}",
            f"{row['loss']:.3g}",
        )
        for row in frames["networks"].iter_rows(named=True)
    ]
    return accuracies + losses


def claims(dataset: DataSet, frames: Frames) -> list[Row]:
    """The phenomena that appendix B lists, each over all capacities that were measured."""
    capacities = frames["networks"]["capacity"].unique(maintain_order=True).to_list()
    several = [_capacity_helps, _value_falls] if len(capacities) > 1 else []
    return [row for claim in (*several, _label_leaking, _collapse) for row in claim(dataset, frames, capacities)]


def _capacity_helps(dataset: DataSet, frames: Frames, capacities: Sequence[str]) -> list[Row]:
    left = _rows(frames, "natural", "FGSM").to_dicts()
    return [
        Row(
            f"{dataset.title}, natural training: accuracy on FGSM examples at capacity {', '.join(capacities)}",
            "rises with capacity",
            ", ".join(f"{100 * row['accuracy']:.1f}" for row in left),
            rises(left[0], left[-1]),
        )
    ]


def _label_leaking(dataset: DataSet, frames: Frames, capacities: Sequence[str]) -> list[Row]:
    """Three claims about training on FGSM examples: they are learnt by heart, PGD breaks all, clean images suffer."""
    natural, one_step, several = (_accuracies(frames, "FGSM", kind) for kind in ("natural", "FGSM", "PGD"))
    unharmed = _accuracies(frames, "natural", "natural")
    found = []
    for place, capacity in enumerate(capacities):
        leaks = one_step[place] >= natural[place]
        broken = several[place] <= ABOUT_NONE
        suffers = natural[place] < unharmed[place]
        found.append(
            Row(
                f"{dataset.title}, FGSM training, capacity {capacity}: accuracy on natural, FGSM, PGD examples",
                PUBLISHED_LEAKING.get((dataset.name, capacity), "label leaking, natural poor, PGD about 0"),
                f"{100 * natural[place]:.1f}, {100 * one_step[place]:.1f}, {100 * several[place]:.1f}",
                f"FGSM at least natural: {_verdict(leaks)}; natural below natural training's "
                f"{100 * unharmed[place]:.1f}: {_verdict(suffers)}; PGD at most {ABOUT_NONE:.0%}: {_verdict(broken)}",
            )
        )
    return found


def _collapse(dataset: DataSet, frames: Frames, capacities: Sequence[str]) -> list[Row]:
    own = frames["networks"].filter(pl.col("training") == "PGD")
    constant = [
        f"class {row['only_class']} at capacity {row['capacity']}"
        for row in own.drop_nulls("only_class").iter_rows(named=True)
    ]
    return [
        Row(
            f"{dataset.title}, PGD training: networks that give every image the same class",
            "those of the smallest capacity",
            "; ".join(constant) or f"none of {', '.join(capacities)}",
            "class 1 is 11.35% of the test images" if dataset.name == "mnist" else "",
        )
    ]


def _value_falls(dataset: DataSet, frames: Frames, capacities: Sequence[str]) -> list[Row]:
    found = []
    for training in ("FGSM", "PGD"):
        losses = frames["networks"].filter(pl.col("training") == training)["loss"].to_list()
        falls = all(later < earlier for earlier, later in zip(losses, losses[1:], strict=False))
        found.append(
            Row(
                f"{dataset.title}, {training} training: value of the saddle point at capacity {', '.join(capacities)}",
                "falls as capacity grows",
                ", ".join(f"{loss:.3g}" for loss in losses),
                _verdict(falls),
            )
        )
    return found


def _rows(frames: Frames, training: str, adversary: str) -> pl.DataFrame:
    return frames["accuracies"].filter((pl.col("training") == training) & (pl.col("adversary") == adversary))


def _accuracies(frames: Frames, training: str, adversary: str) -> list[float]:
    return _rows(frames, training, adversary)["accuracy"].to_list()


def _verdict(holds: bool) -> str:
    return "holds" if holds else "does not hold"
