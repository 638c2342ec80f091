"""What rounding can do to a bound: the terms that make it hold for the network as processors compute it.

The standard model: a sum of n products, in any order, fused or not, is off by at most gamma_n = n u / (1 - n u) of the
sum of their magnitudes, where u is half the distance from 1 to the next float (Higham 2002, section 3.1). An
affine layer W h + b with |h| <= H is therefore computed to within gamma (|W| H + |b|), where gamma belongs to the
number of terms. Here gamma has two parts: that of the arithmetic that the classifier runs in, so that a bound holds for
what the classifier answers and not only for what it would answer in real numbers; and that of the arithmetic that the
bound itself is computed in. Convolutions by Winograd's or Fourier's way do not follow the model; PyTorch uses neither
on a processor.
"""

from dataclasses import dataclass

import torch

FLOAT32 = 2.0**-24
# What a product that underflows can lose, also where small floats are flushed to zero.
TINY = 2.0**-126


@dataclass(frozen=True)
class Rounding:
    """Units of rounding: of the classifier's own arithmetic (0 for real numbers) and of that of the bounds."""

    deployed: float
    bounding: float

    def gamma(self, terms: int) -> float:
        """What to add, as a share of the magnitudes that `terms` products and additions are made of.

        The bounding arithmetic counts twice, for the centre and for the radius, whose own rounding is divided out.
        """
        n = terms + 6
        own = _gamma(n, self.bounding)
        return (_gamma(n, self.deployed) + 2 * own) / (1 - own)

    def summing(self, n: int) -> float:
        """What a sum of n products loses in the arithmetic of the bounds alone, as a share of their magnitudes."""
        return Rounding(0.0, self.bounding).gamma(n)

    def tiny(self, terms: int) -> float:
        return TINY * (terms + 6)


def rounding_in(dtype: torch.dtype, *, deployed: float = FLOAT32) -> Rounding:
    """For bounds computed in `dtype` on a classifier that runs in float32, unless `deployed` says otherwise."""
    return Rounding(deployed, torch.finfo(dtype).eps / 2)


def _gamma(n: int, unit: float) -> float:
    return n * unit / (1 - n * unit)
