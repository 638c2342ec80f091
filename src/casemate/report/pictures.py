"""Images as PNG inside the page."""

import base64
import io
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from jaxtyping import Float32
from PIL import Image

Picture = Float32[np.ndarray, "channel height width"]

# Larger images are shown smaller: 100 of them must not make a page of 20 MB.
LARGEST_SIDE = 128
DIVERGING = "RdBu_r"  # blue below zero, white at zero, red above: told apart with every common colour blindness


def image_uri(image: Picture) -> str:
    """A grey or RGB image in [0, 1] as a data: address; another number of channels is shown as their mean."""
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if len(pixels) == 3:
        return _png(pixels.transpose(1, 2, 0))
    return _png(pixels[0] if len(pixels) == 1 else np.rint(pixels.mean(axis=0)).astype(np.uint8))


def difference_uri(delta: Picture, full: float) -> str:
    """A signed change, where -`full` is the darkest blue, 0 white and +`full` the darkest red.

    Of several channels, the one that changes most is shown, pixel by pixel.
    """
    strongest = np.abs(delta).argmax(axis=0)
    signed = np.take_along_axis(delta, strongest[None], axis=0)[0]
    scaled = 0.5 + 0.5 * np.clip(signed / full, -1, 1)
    colours = matplotlib.colormaps[DIVERGING](scaled, bytes=True)
    return _png(np.ascontiguousarray(colours[..., :3]))


def is_coarse(image: Picture) -> bool:
    """Whether the image is so small that its pixels are best shown as squares."""
    return max(image.shape[1:]) <= 64


def _png(pixels: npt.NDArray[Any]) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
    written = io.BytesIO()
    picture.save(written, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
