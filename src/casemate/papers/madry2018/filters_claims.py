"""What appendix E says of the layers of both MNIST networks, beside what they are."""

from collections.abc import Mapping

import polars as pl
import torch

from casemate.papers.evaluation import Evaluation
from casemate.papers.item import Row
from casemate.papers.madry2018 import thresholds
from casemate.papers.madry2018.pair import NATURAL, TRAINED

FIRST, SECOND, OUTPUT = "first", "second", "output"
KINDS = (NATURAL, TRAINED)
# How near eps or 1 - eps a threshold is called to be at it, and from where on answers are said to vary; the limits are
# ours.
WITHIN = 0.05
VARIES = 0.01
# Lengths of lists that can be read.
MOST_LISTED = 12

Frames = Mapping[str, pl.DataFrame]


def rows(frames: Frames, judged: Evaluation) -> list[Row]:
    return [
        *(_one_weight(frames, network) for network in KINDS),
        _thresholds(frames, judged.threat.eps),
        *(_dead(frames, network, len(judged.x)) for network in KINDS),
        *(_in_use(frames, network) for network in KINDS),
        *(_range(frames, network, layer) for layer in (FIRST, SECOND) for network in KINDS),
        _output_weights(frames),
        *(_class_biases(frames, network) for network in KINDS),
    ]


def filters_of(frames: Frames, network: str) -> pl.DataFrame:
    return frames["filters"].filter(pl.col("network") == network)


def weights_of(frames: Frames, network: str, layer: str) -> pl.Series:
    return _layer(frames, network, layer).drop_nulls("place")["value"]


def biases_of(frames: Frames, network: str, layer: str) -> pl.Series:
    return _layer(frames, network, layer).filter(pl.col("place").is_null())["value"]


def _layer(frames: Frames, network: str, layer: str) -> pl.DataFrame:
    return frames["weights"].filter((pl.col("network") == network) & (pl.col("layer") == layer))


def _one_weight(frames: Frames, network: str) -> Row:
    own = filters_of(frames, network)
    count = int(own["one_weight"].sum())
    published = {NATURAL: "none", TRAINED: "3 of 32; the other 29 are not used"}[network]
    holds = count > 0 if network == TRAINED else count == 0
    return Row(
        f"MNIST, {network}: filters of the first layer with one weight",
        published,
        f"{count} of {len(own)}",
        f"{'there are some' if network == TRAINED else 'none'}: {_verdict(holds)}; all other weights of the filter "
        f"under {thresholds.COUNTS:.0%} of the largest; weights of each above that: {_listed(own['n_weights'], 'd')}",
    )


def _thresholds(frames: Frames, eps: float) -> Row:
    single = filters_of(frames, TRAINED).filter(pl.col("one_weight")).sort("threshold")
    at_eps = int(thresholds.near(torch.tensor(single["threshold"].to_list(), dtype=torch.float64), eps, WITHIN).sum())
    return Row(
        f"MNIST, {TRAINED}: thresholds -bias / weight of its filters with one weight",
        "no number; changes of pixels below threshold - eps do not pass",
        _listed(single["threshold"], ".3f") or "no such filters",
        f"{at_eps} of {len(single)} within {WITHIN:g} of eps = {eps:g} or 1 - eps = {1 - eps:g}",
    )


def _dead(frames: Frames, network: str, n: int) -> Row:
    own = filters_of(frames, network)
    return Row(
        f"MNIST, {network}: dead filters of the first layer, whose ReLU lets nothing by",
        "29 of 32 are not used" if network == TRAINED else "no claim",
        f"{int((own['fires'] == 0).sum())} of {len(own)}",
        f"on the first {n:,} test images; share of positions at which each answers: {_listed(own['fires'], '.1%')}",
    )


def _in_use(frames: Frames, network: str) -> Row:
    """A filter may be of no use without being dead: its answer may be its bias, whatever it sees."""
    own = filters_of(frames, network)
    relative = own["spread"] / max(own["spread"].to_numpy().max(), 1e-300)
    return Row(
        f"MNIST, {network}: filters of the first layer in use, whose answers vary",
        "3 of 32" if network == TRAINED else "no claim",
        f"{int((relative >= VARIES).sum())} of {len(own)}",
        f"asked here: at least {VARIES:.0%} of the standard deviation of the most varying; of all: "
        f"{_listed(relative, '.2%')}",
    )


def _range(frames: Frames, network: str, layer: str) -> Row:
    values = weights_of(frames, network, layer).to_numpy()
    shown, natural = {FIRST: ("-0.2 to 1.2", "no number"), SECOND: ("-3 to 1, sparse", "much narrower")}[layer]
    small = thresholds.share_small(torch.from_numpy(values.copy()))
    return Row(
        f"MNIST, {network}: range of the weights of the {layer} layer",
        f"{shown} (colour bar)" if network == TRAINED else natural,
        f"{values.min():.2f} to {values.max():.2f}",
        f"{small:.1%} of the weights are under {thresholds.COUNTS:.0%} of the largest",
    )


def _output_weights(frames: Frames) -> Row:
    natural, trained = (float(weights_of(frames, network, OUTPUT).to_numpy().std()) for network in KINDS)
    return Row(
        f"MNIST: standard deviation of the weights of the output layer, {NATURAL} and {TRAINED}",
        "alike, that of the trained slightly larger",
        f"{natural:.3f} and {trained:.3f}",
        f"larger: {_verdict(trained > natural)}; {trained / natural:.2f} times",
    )


def _class_biases(frames: Frames, network: str) -> Row:
    values = biases_of(frames, network, OUTPUT).to_numpy()
    spread = {kind: float(biases_of(frames, kind, OUTPUT).to_numpy().std()) for kind in KINDS}
    larger = f"larger: {_verdict(spread[TRAINED] > spread[NATURAL])}; " if network == TRAINED else ""
    return Row(
        f"MNIST, {network}: biases of the classes, least to largest",
        "far from uniform, 0.05 to 0.175" if network == TRAINED else "no number",
        f"{values.min():.3f} to {values.max():.3f}",
        f"standard deviation {spread[network]:.3f}, {larger}they start at 0.1",
    )


def _listed(values: pl.Series, form: str) -> str:
    """The first of them, and how many more there are."""
    known = values.to_list()
    more = f" and {len(known) - MOST_LISTED} more" if len(known) > MOST_LISTED else ""
    return ", ".join(f"{value:{form}}" for value in known[:MOST_LISTED]) + more


def _verdict(holds: bool) -> str:
    return "holds" if holds else "does not hold"
