"""Bit-depth reduction: the last bits of every pixel value go."""

from torch import nn

from casemate.classifier import Images
from casemate.errors import CasemateError


class BitDepth(nn.Module):
    """Keeps the leading `bits` of the 8 bits of every pixel value and sets the others to 0.

    Guo et al. 2018 (arXiv:1711.00117), section 4.1, with the 3 bits and the truncation that Athalye et al. 2018 broke
    (arXiv:1802.00420, section 5.2.2); 3 bits leave the values 0, 32, ..., 224 of 255. The surrogate is the identity, as
    in that break. Images [N, C, H, W] in [0, 1] to the same. Raises `CasemateError` unless `bits` is 1 to 8.
    """

    stochastic = False

    def __init__(self, bits: int = 3) -> None:
        super().__init__()
        if bits not in range(1, 9):
            raise CasemateError(f"a pixel value keeps 1 to 8 of its 8 bits, not {bits!r}")
        self.bits = bits

    def forward(self, x: Images) -> Images:
        step = 2 ** (8 - self.bits)
        return (x * 255 / step).floor() * step / 255

    def surrogate(self, x: Images) -> Images:
        return x

    def extra_repr(self) -> str:
        return f"bits={self.bits}"
