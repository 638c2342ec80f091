"""Bilinear interpolation at places of each image's own, written as products of matrices.

Products give the same numbers on every run, on CUDA and backwards too, which gathered pixels do not.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from casemate.classifier import Images


def interpolate(
    x: Images, rows: Float[Tensor, "batch height_out"], columns: Float[Tensor, "batch width_out"]
) -> Float[Tensor, "batch channel height_out width_out"]:
    """The values of images in [0, 1] between their pixels, at `rows` and `columns` of each image: in [0, 1] too.

    Positions count pixels: 0 is the centre of the first row, H - 1 that of the last. Beyond these the outermost row or
    column goes on. Differentiable in `x`.
    """
    down, across = _weights(rows, x.shape[2]).to(x.dtype), _weights(columns, x.shape[3]).to(x.dtype)
    values = down[:, None] @ x @ across[:, None].mT
    # Rounding may leave [0, 1] by a hair, where a clamp alone would cut the gradient off.
    return values + (values.clamp(0, 1) - values).detach()


def _weights(positions: Float[Tensor, "batch size_out"], size: int) -> Float[Tensor, "batch size_out size"]:
    """What each of the `size` pixels of a line counts for at each position: one or two of them, 1 together."""
    distance = positions.clamp(0, size - 1)[..., None] - torch.arange(size, device=positions.device)
    return (1 - distance.abs()).clamp(min=0)
