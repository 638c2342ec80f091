"""Figure 4: what capacity does to networks trained on natural, FGSM and PGD examples."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from casemate import data, rng
from casemate.attacks import FGSM, PGD, Attack
from casemate.data import Dataset
from casemate.gradients import Engine
from casemate.papers.evaluation import Evaluation, evaluation
from casemate.papers.item import Item, Outcome, Row, Run, Setting
from casemate.papers.madry2018 import families, figure4_claims, figure4_figure, pair
from casemate.papers.madry2018.families import CAPACITIES, SCALES, TRAININGS
from casemate.papers.madry2018.pair import DATA_SETS, DataSet
from casemate.papers.networks import Network, Variant
from casemate.precision import full_float32
from casemate.training.batches import hold_out
from casemate.training.objective import Step

MNIST, CIFAR10 = DATA_SETS
N_IMAGES: dict[Setting, int] = {"small": 500, "full": 10_000}
N_TRAINING: dict[Setting, int] = {"small": 1000, "full": 10_000}
# Training images at a time: bounds the memory of one forward pass.
AT_A_TIME = 250

Adversaries = Mapping[str, Attack | None]
ADVERSARIES: dict[str, Adversaries] = {
    "mnist": {"natural": None, "FGSM": FGSM(), "PGD": PGD(n_steps=40, step_size=MNIST.step_size)},
    "cifar10": {
        "natural": None,
        "FGSM": FGSM(),
        "PGD": PGD(n_steps=20, step_size=CIFAR10.step_size),
        "7-step PGD": PGD(n_steps=7, step_size=CIFAR10.step_size),
        "random-start FGSM": FGSM(random_start=True),
    },
}

Frames = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class Member:
    """One network of a family: its capacity, as the figure calls it, what it is trained on, and how it is trained."""

    capacity: str
    training: str
    network: Variant


def members(dataset: DataSet, setting: Setting) -> list[Member]:
    """In order of capacity for each training."""
    if dataset is MNIST:
        return [
            Member(str(scale), title, families.mnist(training, scale, setting))
            for training, title in TRAININGS.items()
            for scale in SCALES[setting]
        ]
    return [
        Member(capacity, title, families.cifar10(training, capacity, setting))
        for training, title in TRAININGS.items()
        for capacity in CAPACITIES[setting]
    ]


def make(run: Run) -> Outcome:
    """Every network of both families, and the claims of the paper about capacity.

    In the small setting CIFAR-10 is left out where its files are not here; in the full one all data are asked for
    before a network is trained.
    """
    chosen, missing = pair.obtainable(run, "a panel of the figure")
    frames: list[Frames] = []
    rows: list[Row] = []
    drawn, networks = {}, []
    for dataset in chosen:
        opened = {member: run.network(member.network) for member in members(dataset, run.setting)}
        found = measured(dataset, opened, run)
        frames.append(found)
        networks += list(opened.values())
        drawn[dataset.name] = figure4_figure.figure(dataset, found, run, tuple(opened.values()))
        rows += figure4_claims.rows(dataset, found)
        rows += families.stand_in(run.setting) if dataset is CIFAR10 else []
    return Outcome(
        drawn,
        {key: pl.concat(found[key] for found in frames) for key in frames[0]},
        (*rows, *missing),
        tuple(networks),
    )


def measured(dataset: DataSet, opened: Mapping[Member, Network], run: Run) -> Frames:
    """`accuracies`: one row for each network and adversary. `networks`: one row for each network.

    The latter says how large a network is, `loss`, the value of the saddle point, and `only_class`, the class that it
    gives to every test image, where there is such a class.
    """
    judged = evaluation(next(iter(opened.values())), N_IMAGES[run.setting], run.seed)
    training = data.load(next(iter(opened.values())).recipe.data, "train")
    accuracies, facts = [], []
    for done, (member, network) in enumerate(opened.items()):
        run.progress(done, len(opened), f"{dataset.title}, {member.training} training, capacity {member.capacity}")
        engine = Engine(network.model, precision="float32")
        labels = {"data": dataset.name, "training": member.training, "capacity": member.capacity}
        for adversary, attack in ADVERSARIES[dataset.name].items():
            accuracies.append({**labels, "adversary": adversary, **judged.accuracy(engine, attack).columns()})
        facts.append(
            {
                **labels,
                "parameters": sum(parameter.numel() for parameter in network.model.parameters()),
                "loss": final_loss(network, engine, training, N_TRAINING[run.setting], run.seed),
                "only_class": only_class(engine, judged),
            }
        )
    return {
        "accuracies": pl.DataFrame(accuracies),
        "networks": pl.DataFrame(facts, schema_overrides={"only_class": pl.Int64}),
    }


def only_class(engine: Engine, judged: Evaluation) -> int | None:
    """The class that the network gives to every one of the images, or None where it gives several."""
    classes = engine.logits(judged.x).argmax(dim=1).unique()
    return int(classes) if len(classes) == 1 else None


def final_loss(network: Network, engine: Engine, training: Dataset, n: int, seed: int) -> float:
    """The mean cross-entropy on examples like those the network was trained on, made of `n` of its training images.

    With the objective of its recipe at the end of training: for PGD training the value of the saddle point (equation
    2.1), the fourth panel of the figure. Without augmentation, and with the running statistics of batch normalisation.
    """
    recipe = network.recipe
    device = next(network.model.parameters()).device
    index, _ = hold_out(len(training), recipe.hold_out, recipe.seed)
    objective = recipe.build_objective()

    def total(part: Tensor) -> float:
        x, y = training.images[part].to(device), training.labels[part].to(device)
        keys = rng.fold(rng.image_keys(seed, part), "final loss").to(device)
        with torch.no_grad(), full_float32(device):
            loss = objective(
                network.model, x, y, step=Step(number=0, progress=1.0, epoch=0.0, keys=keys, engine=engine)
            )
        return len(part) * loss.item()

    chosen = index[:n]
    return sum(total(part) for part in chosen.split(AT_A_TIME)) / len(chosen)


ITEM = Item(
    "figure4",
    "capacity: natural, FGSM and PGD training of small and large networks",
    "figure 4 and appendix B; table 5 of appendix D",
    {"small": "1 minute", "full": "30 minutes for MNIST; CIFAR-10 needs a GPU"},
    make,
)
