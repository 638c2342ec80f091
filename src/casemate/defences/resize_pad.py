"""Random resizing and padding: the network sees each image at a size and a place of chance."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from casemate import rng
from casemate.classifier import Images
from casemate.defences.bilinear import interpolate
from casemate.errors import CasemateError


class ResizePad(nn.Module):
    """Enlarges each image a little at random and puts it at a random place of a larger black image.

    Xie et al. 2018 (arXiv:1711.01991), section 3: images of side 299 get a side drawn from 299 to 330 and lie anywhere
    within a side of 331. Here the outer side is `ratio` times that of the image, rounded up, for height and width: 299
    becomes 331, 32 becomes 36 and 28 becomes 31 by default, and 32 becomes 40 with a ratio of 1.25. The inner side is
    drawn from the image's own to one less than the outer one; height and width of an image that is not square grow
    together. The interpolation is bilinear and the padding 0.

    Images [N, C, H, W] in [0, 1] to larger ones in [0, 1], so the classifier after this layer must take that size. The
    layer is differentiable and needs no surrogate; Athalye et al. 2018 (arXiv:1802.00420, section 5.3.2) broke it by
    averaging over 30 draws. Raises `CasemateError` unless `ratio` is above 1.
    """

    surrogate = None
    stochastic = True

    def __init__(self, ratio: float = 331 / 299) -> None:
        super().__init__()
        if not 1 < ratio < math.inf:
            raise CasemateError(f"the padded image must be larger than the image: ratio is above 1, not {ratio}")
        self.ratio = ratio

    def forward(self, x: Images) -> Float[Tensor, "batch channel height_out width_out"]:
        size, top, left = rng.uniform(rng.layer_keys(x, "resize-pad"), (3,)).unbind(dim=1)
        rows, in_rows = self._placed(size, top, x.shape[2])
        columns, in_columns = self._placed(size, left, x.shape[3])
        return interpolate(x, rows, columns) * (in_rows[:, None, :, None] & in_columns[:, None, None, :])

    def _placed(
        self, size: Float[Tensor, "batch"], start: Float[Tensor, "batch"], side: int
    ) -> tuple[Float[Tensor, "batch side_out"], Bool[Tensor, "batch side_out"]]:
        """Where each line of the output lies in an image of `side` lines, and whether it is within it."""
        # The default ratio times 299 is above 331 by a rounding error.
        outer = math.ceil(side * self.ratio - 1e-6)
        inner = side + (size * (outer - side)).floor()
        start = (start * (outer - inner + 1)).floor()
        line = torch.arange(outer, device=start.device) - start[:, None]
        position = (line + 0.5) * (side / inner)[:, None] - 0.5
        return position, (line >= 0) & (line < inner[:, None])

    def extra_repr(self) -> str:
        return f"ratio={self.ratio:g}"
