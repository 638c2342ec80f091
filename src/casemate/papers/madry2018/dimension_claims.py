"""What the two experiments on the dimension of the input come to: rows beside predictions."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from casemate.papers import evaluation
from casemate.papers.evaluation import Accuracy
from casemate.papers.item import Row
from casemate.papers.madry2018 import dimension_answers
from casemate.papers.madry2018.dimension_facts import KINDS, Facts, doubling, exponent
from casemate.papers.madry2018.numbers import percent, ratio, written
from casemate.papers.madry2018.pair import NATURAL
from casemate.papers.networks import Network

THEORY = "Simon-Gabriel et al. 2018"
LIMIT = "Shafahi et al. 2018"
# Of sums of weights.
ROUNDING = 1e-9


def rows(found: Facts, opened: Mapping[tuple[str, int], Network]) -> list[Row]:
    n = f"n = {found.n} test images, one network of each kind"
    return [
        Row(
            f"{found.title}: do few pixels make adversarial examples harder to find?",
            f"in linf by sqrt(n) at first order ({THEORY}); up-sampling alone changes nothing ({LIMIT})",
            dimension_answers.on_pixels(found),
            n,
        ),
        Row(
            f"{found.title}: can an attack exploit the resize?",
            "where it ignores pixels or has weights below 0; not where it averages (closed forms)",
            dimension_answers.on_resizes(found),
            n,
        ),
        _weights(found, opened),
        *(row for network in KINDS for row in _size_rows(found, network)),
        _untrained_row(found),
        *(_pooled_row(found, network) for network in KINDS),
        *(row for resize in found.reach["resize"].unique(maintain_order=True) for row in _resize_rows(found, resize)),
    ]


def _weights(found: Facts, opened: Mapping[tuple[str, int], Network]) -> Row:
    networks = [opened[NATURAL, side] for side in found.sides]
    counts = (sum(parameter.numel() for parameter in network.model.parameters()) for network in networks)
    models = (network.recipe.model for network in networks)
    shapes = (", ".join(f"{key} {value}" for key, value in model.arguments.items()) for model in models)
    return Row(
        f"{found.title}: weights of the networks at {found.at}",
        "as equal as the widths of the family allow",
        ", ".join(f"{count:,}" for count in counts),
        f"{networks[0].recipe.model.name}: {'; '.join(shapes)}",
    )


def _size_rows(found: Facts, network: str) -> list[Row]:
    sizes = [found.size(network, side) for side in found.sides]
    what, at = f"{found.title}, {network}", f"at {found.at}"
    standing = [evaluation.percent(Accuracy(size["right"], size["n"]).columns()) for size in sizes]
    shared = f"the {found.n_shared(network)} images that all three get right"
    linf, l2, gradient = ([size[key] for size in sizes] for key in ("linf", "l2", "gradient"))
    return [
        Row(
            f"{what}: clean accuracy {at}",
            "no number",
            ", ".join(f"{100 * size['clean']:.1f}" for size in sizes),
            "smaller images are averages and have lost detail; larger ones repeat pixels and have gained none",
        ),
        Row(f"{what}: attacked accuracy {at}, {found.threat}", "the lower the more pixels", ", ".join(standing)),
        Row(
            f"{what}: median smallest linf change {at}",
            "halves at each doubling by sqrt(n), stays by up-sampling alone",
            written(linf),
            f"times {_doublings(linf)} at each doubling; by bisection over PGD, so from above; over {shared}",
        ),
        Row(
            f"{what}: median smallest l2 change {at}",
            "stays by sqrt(n), doubles by up-sampling alone",
            written(l2),
            f"times {_doublings(l2)} at each doubling; by DDN, so from above; over {shared}",
        ),
        Row(
            f"{what}: mean l1 norm of the gradient of the loss {at}",
            f"grows as sqrt(n), exponent 0.5 ({THEORY})",
            f"{written(gradient)}: exponent {ratio(exponent(found.sides, gradient))}",
            "the cross-entropy at the clean images",
        ),
    ]


def _untrained_row(found: Facts) -> Row:
    gradient = [found.untrained_at(side) for side in found.sides]
    draws = found.frames["fresh"]["draw"].n_unique()
    return Row(
        f"{found.title}, untrained: mean l1 norm of the gradient of the loss at {found.at}",
        f"grows as sqrt(n), exponent 0.5 (proved: {THEORY})",
        f"{written(gradient)}: exponent {ratio(exponent(found.sides, gradient))}",
        f"{draws} networks of each size, weights drawn by their numbers of inputs",
    )


def _pooled_row(found: Facts, network: str) -> Row:
    """The same images at twice the size, seen by the network trained on them and by the own one behind a pool."""
    native, pooled = found.size(network, found.sides[2]), found.through(network, "area, factor 2")
    return Row(
        f"{found.title}, {network}, {found.sides[2]} pixels: the network trained there, and that of {found.own} behind "
        "average pooling",
        f"the former can be as good, for its images say as much ({LIMIT})",
        "; ".join(
            f"{percent(row['standing'])} stand at {found.threat}, median linf {row['linf']:.3g}, l2 {row['l2']:.3g}"
            for row in (native, pooled)
        ),
    )


def _resize_rows(found: Facts, resize: str) -> list[Row]:
    closed = found.closed_form(resize)
    known = (pl.col("resize") == resize) & (pl.col("source") == "matrix")
    matrix = found.reach.row(by_predicate=known, named=True)
    behind = {network: found.through(network, resize) for network in KINDS}
    plain = {network: found.size(network, found.own) for network in KINDS}
    what = f"{found.title}, {resize}"
    standing, without = (
        ", ".join(f"{network} {percent(row['standing'])}" for network, row in rows.items()) for rows in (behind, plain)
    )
    ratios = (
        f"{network} linf {ratio(row['linf_ratio'])}, l2 {ratio(row['l2_ratio'])}" for network, row in behind.items()
    )
    shapes = (f"{network} {row['kappa']:.2f}, {row['share']:.1%}" for network, row in behind.items() if row["kappa"])
    return [
        Row(
            f"{what}: linf change let through, and l2 change that it takes, per unit",
            _reach(closed),
            _reach(matrix),
            f"PyTorch's matrix to {found.own} pixels; it looks at {matrix['share']:.1%} of the pixels",
        ),
        Row(f"{what}: attacked accuracy at {found.threat}", _expected_standing(found, closed, without), standing),
        Row(
            f"{what}: smallest change, over that without it",
            _expected_ratio(closed),
            "; ".join(ratios),
            f"medians over images; kappa and share of the pixels of the l2 change: {'; '.join(shapes)}",
        ),
    ]


def _reach(row: Mapping[str, Any]) -> str:
    least, most = row["l2_least"], row["l2_most"]
    l2 = f"{least:.2f}" if math.isclose(least, most, rel_tol=1e-6) else f"{least:.2f} to {most:.2f}"
    return f"linf {row['linf']:.3f}, l2 {l2}"


def _expected_standing(found: Facts, closed: Mapping[str, Any], without: str) -> str:
    if closed["linf"] > 1 + ROUNDING:
        return f"lower: the network meets up to linf {closed['linf'] * found.threat.eps:.3g} (without: {without})"
    if closed["undoes_enlargement"]:
        return f"as without it: {without}"
    return f"not lower, but for the blur (without: {without})"


def _expected_ratio(closed: Mapping[str, Any]) -> str:
    least, most = closed["l2_least"], closed["l2_most"]
    if closed["undoes_enlargement"]:
        linf = "1" if closed["linf"] <= 1 + ROUNDING else f"at least {1 / closed['linf']:.2f}"
        return f"linf {linf}, l2 {least:.2f}"
    return f"linf at least {1 / closed['linf']:.2f}, l2 {least:.2f} to {most:.2f}, were the image not changed"


def _doublings(values: list[float]) -> str:
    return " and ".join(ratio(doubling(first, last)) for first, last in zip(values, values[1:], strict=False))
