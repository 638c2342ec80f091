"""`NAME@SIDE`: a data set with its images at another size, by a whole factor."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from casemate.data.dataset import Description, Loader, Pixels
from casemate.errors import CasemateError

Values = UInt8[np.ndarray, "n channel height width"]


@dataclass(frozen=True)
class ResizedLoader:
    """The data set of `loader` with square images of `side` pixels; raises `CasemateError` where no factor is whole."""

    loader: Loader
    side: int

    def __call__(self, split: str, *, limit: int | None, root: Path | None, progress: bool) -> Pixels:
        pixels = self.loader(split, limit=limit, root=root, progress=progress)
        return replace(pixels, values=resized(pixels.values, self.side))

    def describe(self, root: Path | None) -> Description:
        whole = self.loader.describe(root)
        shape = None if whole.shape is None else (whole.shape[0], self.side, self.side)
        return replace(whole, name=f"{whole.name}@{self.side}", shape=shape)


def resized(values: Values, side: int) -> Values:
    """Every pixel repeated to become larger; to become smaller, means of squares of pixels, half a level rounded up.

    One byte a value before and after, as in a file of that size.
    """
    n, channels, height, width = values.shape
    if height != width or max(side, height) % min(side, height):
        raise CasemateError(
            f"images of {width} x {height} pixels do not become {side} x {side} by a whole factor: square images do, "
            "for a side that divides or is divided by theirs"
        )
    if side >= height:
        return values.repeat(side // height, axis=2).repeat(side // height, axis=3)
    factor = height // side
    # Whole numbers throughout, so that every machine rounds alike.
    sums = values.reshape(n, channels, side, factor, side, factor).sum(axis=(3, 5), dtype=np.uint32)
    return ((sums + factor**2 // 2) // factor**2).astype(np.uint8)
