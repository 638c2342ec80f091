"""A reader's question about the paper: the images have 28 x 28 pixels, or 32 x 32 of 3 colours.

Do so few make adversarial examples harder to find? Networks of one family are trained at half, at the whole and at
twice the size of the images, with one linf budget for all. And can an attack make use of the resize in front of a
network? One network is attacked through every kind of down-sampling, eps and distances being those of its large input.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import torch
from torch import nn

from casemate import models, rng
from casemate.attacks import DDN, PGD, evaluate
from casemate.attacks.smallest import smallest
from casemate.gradients import Engine
from casemate.losses import cross_entropy
from casemate.papers.evaluation import Evaluation, evaluation
from casemate.papers.item import Item, Outcome, Row, Run, Setting
from casemate.papers.madry2018 import dimension_claims, dimension_facts, dimension_figure, pair, shape
from casemate.papers.madry2018.pair import DATA_SETS, NATURAL, TRAINED, DataSet, labelled
from casemate.papers.madry2018.resizes import Resize, Resized, enlarged, reach_of, resizes
from casemate.papers.networks import Arguments, Network, Variant
from casemate.threat import L2, Linf

N_IMAGES: dict[Setting, int] = {"small": 100, "full": 1000}
# Untrained networks of each size, whose gradients the theory is about.
N_FRESH = 10
FACTORS = (2, 4)
# Steps of PGD at every radius in linf, and what seeks the nearest points in l2. These are up to 4 times as far in front
# of a resize, where 100 steps of DDN, whose first norm is 1, ended up to half too far in a trial and 300 did not.
N_STEPS = 40
NEAREST = DDN(n_steps=300)
# How the recipes call a kind of network.
TRAININGS = {NATURAL: "natural", TRAINED: "pgd"}

Frames = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class Study:
    """A data set with images of `side` pixels, and how its linf radii are sought: up to `largest`, to `tolerance`.

    `resized` are the arguments of the architecture for images of half and of double the side, with about as many
    weights. `fresh` are those with which it draws its weights by their numbers of inputs, which is what the theory
    assumes.
    """

    dataset: DataSet
    side: int
    largest: Linf
    tolerance: float
    resized: Mapping[Setting, tuple[Arguments, Arguments]]
    fresh: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sides(self) -> tuple[int, int, int]:
        return (self.side // 2, self.side, 2 * self.side)

    def network(self, kind: str, side: int, setting: Setting) -> Variant:
        """The network of the images' own size is that of the other figures."""
        recipe, (half, double) = f"{self.dataset.name}-{TRAININGS[kind]}", self.resized[setting]
        if side == self.side:
            return Variant(recipe)
        return Variant(recipe, data=f"{self.dataset.name}@{side}", arguments=half if side < self.side else double)


STUDIES = (
    Study(
        DATA_SETS[0],
        28,
        Linf(1.0),
        1 / 512,
        {
            "small": ((("scale", 9), ("size", 14)), (("scale", 2), ("size", 56))),
            "full": ((("scale", 36), ("size", 14)), (("scale", 8), ("size", 56))),
        },
        # The paper's own initialisation has one standard deviation for all layers.
        {"init": "pytorch"},
    ),
    # The paper's residual networks average over all positions: their weights do not depend on the size.
    Study(
        DATA_SETS[1],
        32,
        Linf(0.25),
        1 / 2048,
        {"small": ((("width", 18), ("size", 16)), (("width", 10), ("size", 64))), "full": ((), ())},
    ),
)

# A network of a study: natural or PGD-trained, and the side of its images.
Networks = Mapping[tuple[str, int], Network]


def make(run: Run) -> Outcome:
    """Both experiments on each data set, and the answers that their numbers give.

    In the small setting CIFAR-10 is left out where its files are not here; in the full one all data are asked for
    before a network is trained.
    """
    chosen, missing = pair.obtainable(run, "a figure")
    rows: list[Row] = []
    drawn, frames, networks = {}, [], []
    for study in (study for study in STUDIES if study.dataset in chosen):
        dataset = study.dataset
        opened = {
            (kind, side): run.network(study.network(kind, side, run.setting))
            for kind in TRAININGS
            for side in study.sides
        }
        found = measured(study, opened, run)
        frames.append(found)
        networks += list(opened.values())
        threat = evaluation(opened[NATURAL, study.side], 1, run.seed).threat
        facts = dimension_facts.facts(dataset.title, study.sides, threat, found)
        rows += dimension_claims.rows(facts, opened)
        drawn[dataset.name] = dimension_figure.figure(facts, run, tuple(opened.values()))
    data_of = {key: pl.concat(found[key] for found in frames) for key in frames[0]}
    return Outcome(drawn, data_of, (*rows, *missing), tuple(networks))


def measured(study: Study, opened: Networks, run: Run) -> Frames:
    """`sizes`: a row for each network and image. `resizes`: the same for that of the own size behind each resize.

    `fresh`: the mean gradient of each untrained network. `reach`: the closed form of each resize and what PyTorch does.
    """
    shrinking = resizes(FACTORS)
    total = len(opened) + len(TRAININGS) * len(shrinking)
    n = N_IMAGES[run.setting]
    sizes, behind, fresh = [], [], []
    for done, ((kind, side), network) in enumerate(opened.items()):
        run.progress(done, total, f"{study.dataset.title}, {kind}, {side} pixels")
        judged = evaluation(network, n, run.seed)
        sizes.append(labelled(attacked(network.model, judged, study), network=kind, side=side))
        if kind == NATURAL:
            fresh.append(labelled(untrained(network, judged, study), side=side))
    for place, kind in enumerate(TRAININGS):
        network = opened[kind, study.side]
        judged = evaluation(network, n, run.seed)
        for number, resize in enumerate(shrinking):
            run.progress(
                len(opened) + place * len(shrinking) + number, total, f"{study.dataset.title}, {kind}, {resize}"
            )
            larger = Evaluation(judged.threat, enlarged(judged.x, resize.factor), judged.y, judged.seed)
            model = nn.Sequential(Resized(resize), network.model)
            behind.append(labelled(attacked(model, larger, study), network=kind, resize=str(resize)))
    frames = {
        "sizes": pl.concat(sizes),
        "resizes": pl.concat(behind),
        "fresh": pl.concat(fresh),
        "reach": reaches(shrinking, study.side),
    }
    return {key: labelled(frame, data=study.dataset.name) for key, frame in frames.items()}


def attacked(model: nn.Module, judged: Evaluation, study: Study) -> pl.DataFrame:
    """One row for each image.

    `right` on the clean image, `standing` after every attack within the threat model, `linf` and `l2` the distance of
    the nearest misclassified point found in each norm (0 where the image is misclassified as it is), `kappa` and
    `share` of the latter, and the l1 norm of the `gradient` of the cross-entropy at the image.
    """
    engine = Engine(model, precision="float32")
    x, y, threat = judged.x, judged.y, judged.threat
    keys = rng.image_keys(judged.seed, torch.arange(len(x), device=x.device))
    at_eps = evaluate(engine, x, y, threat, PGD(n_steps=N_STEPS), seed=judged.seed)
    bisected = smallest(
        engine, x, y, study.largest, PGD(n_steps=N_STEPS, loss="margin"),
        keys=rng.fold(keys, "smallest"), tolerance=study.tolerance,
    )  # fmt: skip
    # What one of the two found counts for both.
    broken = at_eps.right_before & ~at_eps.right_after
    linf = torch.where(broken, torch.minimum(bisected.distance, threat.measure(at_eps.x_adv, x)), bisected.distance)
    nearest = NEAREST.nearest(engine, x, y, L2(1), keys=rng.fold(keys, "nearest"))
    gradient, _ = engine.gradient(x, y, cross_entropy)
    columns = {
        "right": at_eps.right_before,
        "standing": at_eps.right_after & (linf > threat.eps),
        "linf": linf,
        "l2": nearest.distance,
        "kappa": shape.kappa(nearest.x_adv, x),
        "share": shape.share(nearest.x_adv, x),
        "gradient": gradient.flatten(1).abs().sum(dim=1),
    }
    return pl.DataFrame({key: column.cpu().numpy() for key, column in columns.items()}).with_row_index("image")


def untrained(network: Network, judged: Evaluation, study: Study) -> pl.DataFrame:
    """The mean l1 norm of the gradient at the images for each of `N_FRESH` untrained networks of that shape."""
    settings = network.recipe.model
    means = []
    with torch.random.fork_rng(devices=()):
        for number in range(N_FRESH):
            torch.default_generator.manual_seed(judged.seed + number)
            model = models.build(settings.name, **{**settings.arguments, **study.fresh}).to(judged.x.device)
            gradient, _ = Engine(model, precision="float32").gradient(judged.x, judged.y, cross_entropy)
            means.append(float(gradient.flatten(1).abs().sum(dim=1).mean()))
    return pl.DataFrame({"gradient": means}).with_row_index("draw")


def reaches(shrinking: tuple[Resize, ...], side: int) -> pl.DataFrame:
    """What each resize to `side` pixels lets through: the closed form without borders, and PyTorch's own matrix."""
    rows = []
    for resize in shrinking:
        for source, reach in (
            ("closed form", resize.reach()),
            ("matrix", reach_of(resize.matrix(side * resize.factor))),
        ):
            rows.append(
                {
                    "resize": str(resize),
                    "factor": resize.factor,
                    "undoes_enlargement": resize.undoes_enlargement(),
                    "source": source,
                    "linf": reach.linf,
                    "l2_least": reach.l2[0],
                    "l2_most": reach.l2[1],
                    "share": reach.share,
                }
            )
    return pl.DataFrame(rows)


ITEM = Item(
    "dimension",
    "a reader's question: the dimension of the input, and attacks through the resize",
    "not in the paper; Simon-Gabriel et al. 2018, Shafahi et al. 2018",
    {"small": "8 minutes", "full": "4 hours for MNIST; CIFAR-10 needs a GPU"},
    make,
)
