"""The distances to the nearest misclassified points in two norms, summed up over the images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from casemate.papers.evaluation import Accuracy
from casemate.papers.madry2018.pair import NATURAL

Norm = Literal["linf", "l2"]
NORMS: tuple[Norm, ...] = ("linf", "l2")
# The linf radii whose matches in l2 are tried, that of the paper last.
EPS = (0.1, 0.2, 0.3)
# What searches in l2; in linf one bisection does.
SEARCHES = ("PGD", "DDN", "HopSkipJump")

# An l2 radius for each linf radius and match.
Radii = Mapping[float, Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Facts:
    """`distances` has a row for each network and image, `summary` one for each network.

    The latter holds clean accuracy, the medians of distances over all images, their `gain`, which is over the median of
    the natural network, and the medians of kappa and of the share of pixels over the images that have a change.
    `pairs` has a row for each network, linf radius and match: the share of images that stand at the one, `linf`, and at
    the other, `l2`.
    """

    radii: Radii
    distances: pl.DataFrame
    summary: pl.DataFrame
    pairs: pl.DataFrame

    @property
    def networks(self) -> list[str]:
        return self.summary["network"].to_list()

    @property
    def n(self) -> int:
        return self.distances["image"].n_unique()

    def of(self, network: str) -> dict[str, Any]:
        return self.summary.row(by_predicate=pl.col("network") == network, named=True)

    def standing(self, network: str, norm: Norm, radius: float) -> Accuracy:
        own = self.distances.filter(pl.col("network") == network)[norm]
        return Accuracy(int((own > radius).sum()), len(own))

    def pair(self, network: str, eps: float, match: str) -> dict[str, Any]:
        known = (pl.col("network") == network) & (pl.col("eps") == eps) & (pl.col("match") == match)
        return self.pairs.row(by_predicate=known, named=True)

    def apart(self, eps: float, match: str) -> tuple[float, str]:
        """By how much the shares at a matched pair of radii differ at most, and the network where they do."""
        rows = (self.pair(network, eps, match) for network in self.networks)
        return max((abs(row["linf"] - row["l2"]), row["network"]) for row in rows)

    def alone(self, network: str) -> dict[str, Any]:
        """Medians of the l2 distances by each search alone and by all, over the images on which all ran, and `n`."""
        own = self.distances.filter(pl.col("network") == network).drop_nulls([f"l2_{name}" for name in SEARCHES])
        medians = own.select(*(pl.col(f"l2_{name}").median().alias(name) for name in SEARCHES), pl.col("l2").median())
        return {**medians.row(0, named=True), "n": len(own)}


def facts(distances: pl.DataFrame, radii: Radii) -> Facts:
    medians = [pl.col(norm).median() for norm in NORMS]
    shapes = [
        pl.col(f"{norm}_{what}").filter(pl.col(norm).is_finite() & (pl.col(norm) > 0)).median()
        for norm in NORMS
        for what in ("kappa", "share")
    ]
    summary = distances.group_by("network", maintain_order=True).agg(
        pl.col("right").mean().alias("clean"), *medians, *shapes
    )
    natural = summary.row(by_predicate=pl.col("network") == NATURAL, named=True)
    gains = {
        f"{norm}_gain": pl.Series([gain(median, natural[norm]) for median in summary[norm]], dtype=pl.Float64)
        for norm in NORMS
    }
    return Facts(radii, distances, summary.with_columns(**gains), _pairs(distances, radii))


def gain(median: float, natural: float) -> float:
    """The unit-free gain; NaN where one is no length, as of a network that gets most images wrong."""
    return median / natural if 0 < median < math.inf and 0 < natural < math.inf else math.nan


def _pairs(distances: pl.DataFrame, radii: Radii) -> pl.DataFrame:
    rows = []
    for (network,), own in distances.group_by(["network"], maintain_order=True):
        for eps, matches in radii.items():
            for match, radius in matches.items():
                linf, l2 = (own[norm] > at for norm, at in (("linf", eps), ("l2", radius)))
                row = {"network": network, "eps": eps, "match": match, "radius": radius}
                rows.append({**row, "linf": linf.mean(), "l2": l2.mean()})
    return pl.DataFrame(rows)
