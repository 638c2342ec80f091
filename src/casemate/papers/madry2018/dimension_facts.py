"""The two experiments on the dimension of the input, summed up over the images of a data set."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from casemate.papers.madry2018.pair import NATURAL, TRAINED
from casemate.threat import Linf

KINDS = (NATURAL, TRAINED)


@dataclass(frozen=True, eq=False)
class Facts:
    """The frames of one data set, summed up over its images.

    `sizes` has a row for each network and side, `behind` one for each network and resize: shares of images, mean
    gradients, and medians of distances over those images that the networks of all three sides get right, so that sizes
    are compared on the same ones; in `behind` also the medians of each image's distance over that without the resize.
    `reach` has a row for each resize and source, `untrained` the mean gradient for each side.
    """

    title: str
    sides: tuple[int, int, int]
    threat: Linf
    frames: Mapping[str, pl.DataFrame]
    sizes: pl.DataFrame
    behind: pl.DataFrame
    reach: pl.DataFrame
    untrained: pl.DataFrame

    @property
    def own(self) -> int:
        return self.sides[1]

    @property
    def at(self) -> str:
        return f"{self.sides[0]}, {self.sides[1]}, {self.sides[2]} pixels"

    @property
    def n(self) -> int:
        return self.frames["sizes"]["image"].n_unique()

    def n_shared(self, network: str) -> int:
        """How many images the networks of all sides get right."""
        mine = self.frames["sizes"].filter(pl.col("network") == network)
        return int(mine.group_by("image").agg(pl.col("right").all())["right"].sum())

    def untrained_at(self, side: int) -> float:
        return self.untrained.row(by_predicate=pl.col("side") == side, named=True)["gradient"]

    def size(self, network: str, side: int) -> dict[str, Any]:
        return self.sizes.row(by_predicate=(pl.col("network") == network) & (pl.col("side") == side), named=True)

    def through(self, network: str, resize: str) -> dict[str, Any]:
        return self.behind.row(by_predicate=(pl.col("network") == network) & (pl.col("resize") == resize), named=True)

    def closed_form(self, resize: str) -> dict[str, Any]:
        known = (pl.col("resize") == resize) & (pl.col("source") == "closed form")
        return self.reach.row(by_predicate=known, named=True)


def facts(title: str, sides: tuple[int, int, int], threat: Linf, frames: Mapping[str, pl.DataFrame]) -> Facts:
    shared = frames["sizes"].group_by("network", "image").agg(shared=pl.col("right").all())
    sizes, resizes = (
        frames[name].join(shared, on=["network", "image"], maintain_order="left") for name in ("sizes", "resizes")
    )
    moved = pl.col("l2").is_finite() & (pl.col("l2") > 0)
    summary = {
        "clean": pl.col("right").mean(),
        "right": pl.col("standing").sum(),
        "n": pl.len(),
        "standing": pl.col("standing").mean(),
        "linf": pl.col("linf").filter("shared").median(),
        "l2": pl.col("l2").filter("shared").median(),
        "kappa": pl.col("kappa").filter(moved).median(),
        "share": pl.col("share").filter(moved).median(),
        "gradient": pl.col("gradient").mean(),
    }
    itself = sizes.filter(pl.col("side") == sides[1]).select("network", "image", linf_itself="linf", l2_itself="l2")
    paired = resizes.join(itself, on=["network", "image"], maintain_order="left")
    ratios = {f"{norm}_ratio": _ratio(norm) for norm in ("linf", "l2")}
    return Facts(
        title,
        sides,
        threat,
        frames,
        sizes.group_by("network", "side", maintain_order=True).agg(**summary),
        paired.group_by("network", "resize", maintain_order=True).agg(**summary, **ratios),
        frames["reach"],
        frames["fresh"].group_by("side", maintain_order=True).agg(pl.col("gradient").mean()),
    )


def _ratio(norm: str) -> pl.Expr:
    """The median over the images that have both distances."""
    here, there = pl.col(norm), pl.col(f"{norm}_itself")
    both = here.is_finite() & there.is_finite() & (here > 0) & (there > 0)
    return (here / there).filter(both).median()


def doubling(first: float, last: float, doublings: int = 1) -> float:
    """The factor per doubling; NaN where one is no length, as of a network that gets most images wrong."""
    return (last / first) ** (1 / doublings) if 0 < first < math.inf and 0 < last < math.inf else math.nan


def exponent(sides: tuple[int, ...], values: list[float]) -> float:
    """The slope of log value against log n, n being the side squared, by least squares; NaN where a value is 0."""
    if min(values) <= 0:
        return math.nan
    slope, _ = np.polyfit(2 * np.log(sides), np.log(values), 1)
    return float(slope)
