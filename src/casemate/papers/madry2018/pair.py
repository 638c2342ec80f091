"""The paper's pairs: on each data set a naturally and an adversarially trained network, and images both get right."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from casemate import data, rng
from casemate.attacks import PGD
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import Labels
from casemate.papers import figures
from casemate.papers.item import Row, Run
from casemate.papers.networks import Network
from casemate.threat import Images, Linf, parse

NATURAL, TRAINED = "natural", "PGD-trained"
COLOURS = {NATURAL: figures.BLUE, TRAINED: figures.VERMILION}
# The images are sought among the first of the test set.
AMONG = 500


@dataclass(frozen=True)
class DataSet:
    """A data set of the paper, and the step of PGD there (section 5 and appendix A), in the units of eps."""

    name: str
    title: str
    step_size: float


DATA_SETS = (DataSet("mnist", "MNIST", 0.01), DataSet("cifar10", "CIFAR-10", 2 / 255))


@dataclass(frozen=True, eq=False)
class Pair:
    """Two networks, each as an engine in full precision, and test images [n] that both get right, by their `index`."""

    dataset: DataSet
    threat: Linf
    networks: Mapping[str, Network]
    engines: Mapping[str, Engine]
    index: Int64[Tensor, "n"]
    x: Images
    y: Labels

    def attack(self, n_steps: int) -> PGD:
        """The paper's PGD on this data set."""
        return PGD(n_steps=n_steps, step_size=self.dataset.step_size)


def open_pairs(run: Run, n_images: int) -> tuple[list[Pair], list[Row]]:
    """The pairs of the data sets that can be had, and the rows about the others: see `obtainable`."""
    chosen, missing = obtainable(run, "a panel of the figure")
    return [_open(run, dataset, n_images) for dataset in chosen], missing


def obtainable(run: Run, what: str) -> tuple[list[DataSet], list[Row]]:
    """The data sets of which `what` is to be made, and a row for each that cannot be had.

    In the small setting CIFAR-10 is left out where its files are not here. In the full setting all data are needed:
    raises the sentence of the loader before any network is trained.
    """
    if run.setting == "full":
        for dataset in DATA_SETS:
            data.load(dataset.name, limit=1)
    missing = {dataset: _left_out(run, dataset, what) for dataset in DATA_SETS}
    return [dataset for dataset, rows in missing.items() if not rows], [
        row for rows in missing.values() for row in rows
    ]


def _left_out(run: Run, dataset: DataSet, what: str) -> list[Row]:
    """A row that says why `what` of `dataset` is not made; none where it is to be made.

    Only the small setting leaves anything out: a data set other than the first whose files are not here.
    """
    if run.setting == "full" or dataset == DATA_SETS[0] or at_hand(dataset.name):
        return []
    return [Row(dataset.title, what, "not made", f"its data are not here: `casemate data {dataset.name}` fetches them")]


def at_hand(name: str) -> bool:
    """Whether all files of a data set are here, so that nothing has to be fetched."""
    return any(found.name == name and found.where is not None for found in data.describe())


def start_keys(seed: int, index: int, starts: Int64[Tensor, "starts"]) -> rng.Keys:
    """The key of each of the random starts around the test image `index`; the same for both networks of a pair."""
    return rng.fold(rng.image_keys(seed, starts), "start around image", index)


def labelled(frame: pl.DataFrame, **labels: str | float) -> pl.DataFrame:
    """`frame` with a first column of one value for each of `labels`."""
    return frame.select(*(pl.lit(value).alias(name) for name, value in labels.items()), pl.all())


def _open(run: Run, dataset: DataSet, n_images: int) -> Pair:
    networks = {NATURAL: run.network(f"{dataset.name}-natural"), TRAINED: run.network(f"{dataset.name}-pgd")}
    recipe = networks[TRAINED].recipe
    images = data.load(recipe.data, "test", limit=AMONG)
    engines = {name: Engine(network.model, precision="float32") for name, network in networks.items()}
    device = next(networks[TRAINED].model.parameters()).device
    x, y = images.images.to(device), images.labels.to(device)
    right = torch.stack([engine.logits(x).argmax(dim=1) == y for engine in engines.values()]).all(dim=0)
    index = right.nonzero().squeeze(1)[:n_images]
    if len(index) < n_images:
        raise CasemateError(
            f"{' and '.join(network.name for network in networks.values())} together get {len(index)} of the first "
            f"{len(y)} test images right, where {n_images} are needed: train them again with another --seed"
        )
    threat = parse(recipe.threat)
    assert isinstance(threat, Linf), f"{dataset.title} of this paper is about linf, not {threat}"
    return Pair(dataset, threat, networks, engines, index.cpu(), x[index], y[index])
