"""JPEG compression: what an encoder and a decoder leave of an image, without the file between them.

Everything here is whole numbers held in float64, where sums and products of them are exact in any order and on any
device: a coefficient halfway between two steps is rounded the same way whatever the batch.
"""

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from casemate.classifier import Images
from casemate.errors import CasemateError

Planes = Float64[Tensor, "batch plane height width"]

# ITU-T T.81, tables K.1 and K.2: the steps of the coefficients of luminance and chrominance at quality 50.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
# The left half of sqrt(8) times the orthonormal cosine transform, one frequency a row, in units of 2^-13; the right
# half mirrors it, with the other sign in odd rows. libjpeg adds up rounded constants, so a few entries are 1 off.
COSINES = (
    (8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703),
    (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433),
    (2260, -6436, 9633, -11363),
)


class JPEG(nn.Module):
    """Images as they come back from baseline JPEG at `quality`.

    Guo et al. 2018 (arXiv:1711.00117), section 4.1, with their quality of 75, and Athalye et al. 2018
    (arXiv:1802.00420), section 5.2.2, whose surrogate is the identity. Both use Pillow; this is its default encoder and
    decoder (libjpeg-turbo: accurate integer cosine transform, smooth upsampling), bit for bit on images wider than 4
    pixels, and vectorised over the batch. Values are truncated to 8 bits first, as both papers' code does.

    Images [N, 1 or 3, H, W] in [0, 1], of any height and width, to the same. Grey images have luminance alone.
    `subsample` halves the resolution of the colours (4:2:0), as Pillow does unless told otherwise. Raises
    `CasemateError` unless `quality` is 1 to 100 and images have 1 or 3 channels.
    """

    stochastic = False
    cosines: Tensor
    steps: Tensor

    def __init__(self, quality: int = 75, *, subsample: bool = True) -> None:
        super().__init__()
        if quality not in range(1, 101):
            raise CasemateError(f"JPEG's quality is a whole number from 1 to 100, not {quality!r}")
        self.quality = quality
        self.subsample = subsample
        # Whole numbers, so that a copy of the classifier in bfloat16 leaves them alone.
        half = torch.tensor(COSINES)
        sign = torch.tensor([1, -1]).repeat(4)[:, None]
        self.register_buffer("cosines", torch.cat([half, sign * half.flip(1)], dim=1), persistent=False)
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        steps = (torch.tensor([LUMINANCE, CHROMINANCE]) * scale + 50) // 100
        self.register_buffer("steps", steps.clamp(1, 255), persistent=False)

    def forward(self, x: Images) -> Images:
        if x.shape[1] not in (1, 3):
            raise CasemateError(f"JPEG takes images of 1 or 3 channels, not {x.shape[1]}")
        # Multiplied before the cast: in float32, 255 (k / 255) is k again.
        bytes_in = (x * 255).floor().double()
        luminance, chrominance = self.steps.double()
        if x.shape[1] == 1:
            bytes_out = self._coded(bytes_in, luminance)
        else:
            light, colours = _from_rgb(bytes_in)
            height, width = x.shape[2:]
            if self.subsample:
                small = self._coded(_halved(colours), chrominance)[..., : -(-width // 2)]
                colours = _doubled(small)[..., :height, :width]
            else:
                colours = self._coded(colours, chrominance)
            bytes_out = _to_rgb(self._coded(light, luminance), colours)
        return bytes_out.to(x.dtype) / 255

    def surrogate(self, x: Images) -> Images:
        return x

    def extra_repr(self) -> str:
        return f"quality={self.quality}, subsample={self.subsample}"

    def _coded(self, planes: Planes, steps: Float64[Tensor, "8 8"]) -> Planes:
        """Planes of bytes, each block of 8x8 transformed, rounded to `steps` and transformed back."""
        height, width = planes.shape[2:]
        cosines = self.cosines.double()
        blocks = _padded(planes, 8, 8).unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4) - 128
        # Two more bits are kept between the passes; what comes out is 8 times the orthonormal transform.
        coefficients = _shifted(cosines @ _shifted(blocks @ cosines.T, 11), 15)
        # Half a step away from zero is a whole one, as in libjpeg, where round() would go to the even neighbour.
        kept = coefficients.sign() * (coefficients.abs() / (8 * steps) + 0.5).floor() * steps
        blocks = _shifted(_shifted(cosines.T @ kept, 11) @ cosines, 18) + 128
        return blocks.clamp(0, 255).transpose(3, 4).flatten(4, 5).flatten(2, 3)[..., :height, :width]


def _shifted(values: Tensor, bits: int) -> Tensor:
    """values / 2^bits to the nearest whole number, halves upwards."""
    return ((values + 2 ** (bits - 1)) / 2**bits).floor()


def _padded(planes: Planes, row_multiple: int, column_multiple: int) -> Planes:
    """The last row and column repeated until height and width are whole multiples."""
    height, width = planes.shape[2:]
    return nn.functional.pad(planes, (0, -width % column_multiple, 0, -height % row_multiple), mode="replicate")


def _from_rgb(rgb: Planes) -> tuple[Planes, Planes]:
    """Luminance [N, 1, H, W] and the two colours [N, 2, H, W] of JFIF, in fixed point of 16 bits."""
    red, green, blue = rgb.split(1, dim=1)
    light = _shifted(19595 * red + 38470 * green + 7471 * blue, 16)
    # The - 1 keeps the largest value at 255.
    to_blue = _shifted(-11058 * red - 21710 * green + 32768 * blue - 1, 16) + 128
    to_red = _shifted(32768 * red - 27439 * green - 5329 * blue - 1, 16) + 128
    return light, torch.cat([to_blue, to_red], dim=1)


def _to_rgb(light: Planes, colours: Planes) -> Planes:
    to_blue, to_red = (colours - 128).split(1, dim=1)
    red = _shifted(91881 * to_red, 16)
    green = _shifted(-22554 * to_blue - 46802 * to_red, 16)
    blue = _shifted(116130 * to_blue, 16)
    return (light + torch.cat([red, green, blue], dim=1)).clamp(0, 255)


def _halved(planes: Planes) -> Planes:
    """Means of 2x2 values, [N, P, H / 2 rounded up, a whole number of blocks]."""
    # libjpeg extends the columns before it halves them, and the rows afterwards (in `_coded`).
    sums = _padded(planes, 2, 16).unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).sum(dim=(3, 5))
    # 1/4 and 2/4 by turns, so that rounding favours neither side.
    return ((sums + torch.arange(sums.shape[3], device=sums.device) % 2 + 1) / 4).floor()


def _doubled(planes: Planes) -> Planes:
    """Each value becomes 2x2, three parts of its own and one part of the neighbours' on that side in each direction."""
    around = nn.functional.pad(planes, (1, 1, 1, 1), mode="replicate")
    own = 3 * around[:, :, 1:-1]
    rows = torch.stack([own + around[:, :, :-2], own + around[:, :, 2:]], dim=3).flatten(2, 3)
    own = 3 * rows[..., 1:-1]
    return (torch.stack([own + rows[..., :-2] + 8, own + rows[..., 2:] + 7], dim=4).flatten(3, 4) / 16).floor()
