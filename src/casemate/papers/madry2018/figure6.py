"""Figure 6: accuracy of the linf-trained networks against eps in linf and in l2, by gradients and by decisions alone.

The paper found that in l2 PGD overestimates the robustness of the MNIST network, whose filters may hide the gradient.
So every attack of another kind is beside it, the minimum over all of them, and the Boundary attack with more steps than
the paper's 2,000, which do not converge.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from casemate.attacks import MinimumNorm
from casemate.gradients import Engine
from casemate.papers.evaluation import Evaluation, evaluation
from casemate.papers.item import Item, Outcome, Row, Run, Setting
from casemate.papers.madry2018 import families, figure6_claims, figure6_figure, pair
from casemate.papers.madry2018 import figure6_curves as curves
from casemate.papers.madry2018.figure6_claims import Facts
from casemate.papers.madry2018.figure6_curves import DDN, HOPSKIPJUMP, IN_L2, IN_LINF, LEAST, PGD, Found, walk_of
from casemate.papers.madry2018.pair import DATA_SETS, NATURAL, DataSet, labelled
from casemate.papers.networks import Network

MNIST, CIFAR10 = DATA_SETS
# The walks take most of the time, and twice as long for an image of CIFAR-10.
N_IMAGES: dict[str, dict[Setting, int]] = {
    "mnist": {"small": 100, "full": 1000},
    "cifar10": {"small": 40, "full": 1000},
}
# PGD in two norms, the walk, and two searches for the nearest point.
N_ATTACKS = 5

Frames = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class Study:
    """A data set of the figure, the recipes of its networks, and the eps of its panels, each from 0."""

    dataset: DataSet
    recipes: Mapping[str, str]
    grids: Mapping[str, tuple[float, ...]]


STUDIES = (
    Study(
        MNIST,
        {NATURAL: "mnist-natural", IN_LINF: "mnist-pgd", IN_L2: "mnist-pgd-l2"},
        {
            # Closest around the eps of training, past which the accuracy is said to fall.
            "linf": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.275, 0.3, 0.325, 0.35, 0.4, 0.45, 0.5),
            "l2": tuple(0.5 * step for step in range(17)),
        },
    ),
    Study(
        CIFAR10,
        {NATURAL: "cifar10-natural", IN_LINF: "cifar10-pgd"},
        {
            "linf": tuple(levels / 255 for levels in (0, 1, 2, 4, 6, 8, 10, 12, 16, 20, 25, 30)),
            "l2": tuple(levels / 255 for levels in range(0, 101, 10)),
        },
    ),
)


def make(run: Run) -> Outcome:
    """The curves of every network, and what the paper and those who looked again found in them.

    In the small setting CIFAR-10 is left out where its files are not here; in the full one all data are asked for
    before a network is trained.
    """
    chosen, missing = pair.obtainable(run, "a figure")
    rows: list[Row] = []
    drawn, frames, networks = {}, [], []
    for study in (study for study in STUDIES if study.dataset in chosen):
        opened = {name: run.network(recipe) for name, recipe in study.recipes.items()}
        frames.append(measured(study, opened, run))
        networks += list(opened.values())
        facts = Facts(study.dataset, evaluation(opened[NATURAL], 1, run.seed).threat, frames[-1])
        rows += figure6_claims.rows(facts)
        rows += families.stand_in(run.setting) if study.dataset is CIFAR10 else []
        drawn[study.dataset.name] = figure6_figure.figure(facts, run, tuple(opened.values()))
    data_of = {key: pl.concat(found[key] for found in frames) for key in frames[0]}
    return Outcome(drawn, data_of, (*rows, *missing), tuple(networks))


def measured(study: Study, opened: Mapping[str, Network], run: Run) -> Frames:
    """`accuracies`: one row for each network, norm, attack and eps. `distances`: one for each image in place of eps.

    The former is what the `radius` of the latter leaves, and what PGD leaves at each eps by itself. `walks`: the
    distance along the steps of the Boundary attack, for each network and image.
    """
    judged = evaluation(opened[NATURAL], N_IMAGES[study.dataset.name][run.setting], run.seed)
    collected: dict[str, list[pl.DataFrame]] = {"accuracies": [], "distances": [], "walks": []}
    begun = itertools.count()
    for name, network in opened.items():

        def tell(attack: str, name: str = name) -> None:
            run.progress(next(begun), N_ATTACKS * len(opened), f"{study.dataset.title}, {name}, {attack}")

        engine = Engine(network.model, precision="float32")
        for key, frame in attacked(study, engine, judged, run.setting, tell).items():
            collected[key].append(labelled(frame, data=study.dataset.name, network=name))
    return {key: pl.concat(frames) for key, frames in collected.items()}


def attacked(study: Study, engine: Engine, judged: Evaluation, setting: Setting, tell: Callable[[str], None]) -> Frames:
    """The frames of one network; `tell` is told which of the `N_ATTACKS` is begun."""
    swept = {}
    for norm, grid in study.grids.items():
        tell(f"PGD in {norm}")
        swept[norm] = curves.sweep(engine, judged, norm, grid)
    found = {norm: {PGD: each.found()} for norm, each in swept.items()}
    tell("Boundary")
    path = curves.walk(engine, judged)
    found["l2"] |= {walk_of(n_steps): Found(path[n_steps], path[n_steps]) for n_steps in curves.STEPS}
    others: dict[str, MinimumNorm] = {HOPSKIPJUMP: curves.JUMPS[setting], DDN: curves.GRADIENTS}
    for name, attack in others.items():
        tell(name)
        found["l2"][name] = curves.nearest(engine, judged, attack)
    found["l2"][LEAST] = curves.least(found["l2"].values())
    return {
        "accuracies": pl.concat(labelled(curves.accuracy_frame(swept[norm], found[norm]), norm=norm) for norm in found),
        "distances": pl.concat(labelled(curves.distance_frame(found[norm]), norm=norm) for norm in found),
        "walks": curves.walk_frame(path),
    }


ITEM = Item(
    "figure6",
    "accuracy against eps in linf and l2: PGD, attacks by decisions alone, and the least of all",
    "figure 6 and section 5.2",
    {"small": "15 minutes", "full": "10 hours for MNIST; CIFAR-10 needs a GPU"},
    make,
)
