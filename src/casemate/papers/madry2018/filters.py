"""Appendix E: what the layers of the adversarially trained MNIST network look like beside those of the natural one."""

from collections.abc import Mapping

import polars as pl
import torch
from torch import nn

from casemate.papers.evaluation import Evaluation, evaluation
from casemate.papers.item import Item, Outcome, Run, Setting
from casemate.papers.madry2018 import filters_claims, filters_figure, thresholds
from casemate.papers.madry2018.filters_claims import FIRST, OUTPUT, SECOND
from casemate.papers.madry2018.pair import DATA_SETS, NATURAL, TRAINED, labelled
from casemate.papers.networks import Network
from casemate.threat import Images

MNIST = DATA_SETS[0]
# Test images on which a filter that never answers counts as dead.
N_IMAGES: dict[Setting, int] = {"small": 1000, "full": 10_000}

Frames = dict[str, pl.DataFrame]


def make(run: Run) -> Outcome:
    """The layers of both networks in numbers and as images; nothing is attacked."""
    networks = {NATURAL: run.network("mnist-natural"), TRAINED: run.network("mnist-pgd")}
    judged = evaluation(networks[TRAINED], N_IMAGES[run.setting], run.seed)
    frames = measured(networks, judged)
    figure = filters_figure.figure(frames, judged, run, networks)
    rows = filters_claims.rows(frames, judged)
    return Outcome({MNIST.name: figure}, frames, tuple(rows), tuple(networks.values()))


def measured(networks: Mapping[str, Network], judged: Evaluation) -> Frames:
    """`filters`: one row for each network and filter of its first layer, with the statistics of `thresholds`.

    `fires` and `spread` are about its answers to the test images. `weights`: every weight of the first, second and
    output layer, by its unit and its place there, and the biases, which have no place.
    """
    filters, weights = [], []
    for name, network in networks.items():
        filters.append(labelled(filter_frame(network.model, judged.x), network=name))
        layers = thresholds.weighted_layers(network.model)
        for title, layer in ((FIRST, layers[0]), (SECOND, layers[1]), (OUTPUT, layers[-1])):
            weights.append(labelled(weight_frame(layer), network=name, layer=title))
    frames = {"filters": pl.concat(filters), "weights": pl.concat(weights)}
    return {key: labelled(frame, data=MNIST.name) for key, frame in frames.items()}


def filter_frame(model: nn.Module, x: Images) -> pl.DataFrame:
    layer = thresholds.first_layer(model)
    found, answers = thresholds.filters(layer), thresholds.answers(model, layer, x)
    columns = {
        "largest": found.largest,
        "n_weights": found.n_weights,
        "one_weight": found.one_weight,
        "threshold": found.threshold,
        "fires": answers.fires,
        "spread": answers.spread,
    }
    return pl.DataFrame({key: column.cpu().numpy() for key, column in columns.items()}).with_row_index("filter")


def weight_frame(layer: nn.Conv2d | nn.Linear) -> pl.DataFrame:
    weight = layer.weight.detach().flatten(1).cpu()
    n_units, n_places = weight.shape
    unit, place = torch.arange(n_units), torch.arange(n_places)
    frame = pl.DataFrame(
        {
            "unit": unit.repeat_interleave(n_places).numpy(),
            "place": place.repeat(n_units).numpy(),
            "value": weight.flatten().numpy(),
        }
    )
    if layer.bias is None:
        return frame
    bias = pl.DataFrame({"unit": unit.numpy(), "value": layer.bias.detach().cpu().numpy()})
    return pl.concat([frame, bias], how="diagonal")


ITEM = Item(
    "filters",
    "what the layers of the adversarially trained MNIST network look like: filters that are thresholds",
    "appendix E",
    {"small": "seconds", "full": "seconds"},
    make,
)
