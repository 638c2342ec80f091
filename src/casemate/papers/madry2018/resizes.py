"""Down-sampling by a whole factor in front of a classifier, and how far each kind lets an adversary at its input reach.

The attack through the resize is the image-scaling attack (Xiao et al. 2019, USENIX Security). Its cause is an input
that is sampled more coarsely than the kernel is wide (Quiring et al. 2020, USENIX Security), and the cure to average.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor, nn

from casemate.threat import Images

Taps = Float64[Tensor, "taps"]
Matrix = Float64[Tensor, "low high"]


@dataclass(frozen=True)
class Reach:
    """What a linear map A from images to smaller ones leaves to an adversary who changes its input by d.

    `linf` is the most by which a value of A d may change per unit of max |d|, the largest row sum of |A|. To make a
    change v of the small image takes an l2 norm of at least `l2[0]` and at most `l2[1]` times |v|, the inverses of the
    largest and the smallest singular value of A, whatever its box allows. `share` are the pixels that A looks at.
    """

    linf: float
    l2: tuple[float, float]
    share: float


@dataclass(frozen=True)
class Resize:
    """PyTorch's resizing by 1 / `factor` along both axes; "area" is the mean of factor x factor pixels.

    Without `antialias`, "bilinear" and "bicubic" interpolate between the 2 and 4 input pixels nearest to the centre of
    an output pixel along each axis, whatever the factor; with it their kernels are stretched by the factor.
    """

    kind: Literal["area", "nearest", "bilinear", "bicubic"]
    factor: int
    antialias: bool = False

    def __str__(self) -> str:
        return f"{self.kind}{' antialiased' if self.antialias else ''}, factor {self.factor}"

    def __call__(self, x: Images) -> Images:
        if self.kind == "area":
            return F.avg_pool2d(x, self.factor)
        size = (x.shape[2] // self.factor, x.shape[3] // self.factor)
        return F.interpolate(x, size=size, mode=self.kind, antialias=self.antialias)

    def taps(self) -> Taps:
        """The weights, along one axis, of the input pixels that an output pixel away from the border is made of.

        Computed from the kernels' formulas: cubic convolution (Keys 1981) with a = -3/4, and -1/2 with `antialias`.
        Padded with zeros to whole groups of `factor` pixels.
        """
        if self.kind == "nearest":
            return F.pad(torch.ones(1, dtype=torch.float64), (0, self.factor - 1))
        stretch = self.factor if self.antialias or self.kind == "area" else 1
        reach = self.factor * math.ceil(2 * stretch / self.factor)
        # Distances of input pixels from the centre of the output pixel that covers those from 0 to factor - 1.
        away = torch.arange(-reach, reach + self.factor, dtype=torch.float64) - (self.factor - 1) / 2
        weights = _kernel(self.kind, (away / stretch).abs(), -0.5 if self.antialias else -0.75)
        return weights / weights.sum()

    def reach(self) -> Reach:
        """In closed form, for an image without borders.

        Along each axis, the square of the least l2 norm per unit of change is one over the power response of the taps,
        which is extreme for a change of one colour and for one of alternating signs; both axes multiply.
        """
        groups = self.taps().view(-1, self.factor)
        signs = 1 - 2 * (torch.arange(len(groups), dtype=torch.float64)[:, None] % 2)
        responses = [float(part.sum(dim=0).square().sum()) for part in (groups, signs * groups)]
        touched = (groups != 0).any(dim=0).double().mean()
        return Reach(float(groups.abs().sum()) ** 2, (1 / max(responses), 1 / min(responses)), float(touched) ** 2)

    def undoes_enlargement(self) -> bool:
        """Whether an image whose pixels were repeated `factor` times comes out as it was."""
        return int((self.taps().view(-1, self.factor) != 0).any(dim=1).sum()) == 1

    def matrix(self, size: int) -> Matrix:
        """The map along one axis from `size` pixels, as PyTorch carries it out; along both it is applied to each."""
        # One image for each pixel of the axis, the same all along the other, on which weights of sum 1 do nothing.
        # PyTorch 2.13 antialiases wrongly to a width of 1, so that is 2.
        units = torch.eye(size, dtype=torch.float64)[:, None, :, None].expand(-1, 1, -1, 2 * self.factor)
        return self(units)[:, 0, :, 0].T.contiguous()


class Resized(nn.Module):
    """A `Resize` as the first layer of a classifier, so that eps is that of the image before it."""

    def __init__(self, resize: Resize) -> None:
        super().__init__()
        self.resize = resize

    def forward(self, x: Images) -> Images:
        return self.resize(x)

    def extra_repr(self) -> str:
        return str(self.resize)


def reach_of(matrix: Matrix) -> Reach:
    """The same of the map that applies `matrix` along both axes, by its rows and singular values."""
    values = torch.linalg.svdvals(matrix)
    return Reach(
        float(matrix.abs().sum(dim=1).max()) ** 2,
        (1 / float(values.max()) ** 2, 1 / float(values.min()) ** 2),
        float((matrix != 0).any(dim=0).double().mean()) ** 2,
    )


def resizes(factors: tuple[int, ...]) -> tuple[Resize, ...]:
    """Every kind, with and without antialiasing where that is a choice, at each of the factors."""
    found = []
    for factor in factors:
        found += [Resize("area", factor), Resize("nearest", factor)]
        found += [Resize(kind, factor, antialias) for kind in ("bilinear", "bicubic") for antialias in (False, True)]
    return tuple(found)


def enlarged(x: Images, factor: int) -> Images:
    """Every pixel as a square of factor x factor pixels: no information is added."""
    return x.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)


def _kernel(kind: str, away: Taps, a: float) -> Taps:
    if kind == "area":
        return (away < 0.5).double()
    if kind == "bilinear":
        return (1 - away).clamp(min=0)
    inner = (a + 2) * away**3 - (a + 3) * away**2 + 1
    outer = a * (away**3 - 5 * away**2 + 8 * away - 4)
    return torch.where(away < 1, inner, torch.where(away < 2, outer, 0.0))
