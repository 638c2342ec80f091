"""Accuracy against the radius, from the distances of the nearest misclassified points."""

from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes


def standing(axes: Axes, distances: pl.Series, **style: Any) -> None:
    """Draw the share of images whose distance is larger than the radius; inf where no misclassified point is known."""
    finite = np.sort(distances.filter(distances.is_finite()).to_numpy())
    # From all of the images, down by one at each distance.
    left = 1 - np.arange(len(finite) + 1) / len(distances)
    axes.step([0, *finite], left, where="post", **style)
