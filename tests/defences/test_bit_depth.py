"""Bit-depth reduction keeps the leading bits, of every 8-bit value and of values between."""

import pytest
import torch

from casemate.defences import BitDepth
from casemate.errors import CasemateError
from casemate.testing import check_defence


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_conforms(bits: int) -> None:
    check_defence(BitDepth(bits), image_shape=(3, 8, 9))


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_leading_bits_of_every_byte_stay(bits: int) -> None:
    byte = torch.arange(256)
    kept = byte >> (8 - bits) << (8 - bits)
    image = (byte / 255).view(1, 1, 16, 16)
    assert torch.equal(BitDepth(bits)(image), (kept / 255).view(1, 1, 16, 16))


def test_three_bits_are_the_default_and_values_between_are_truncated() -> None:
    image = torch.tensor([31.9, 32.0, 63.9, 254.9, 255.0]).view(1, 1, 1, 5) / 255
    assert torch.equal(BitDepth()(image), torch.tensor([0.0, 32, 32, 224, 224]).view(1, 1, 1, 5) / 255)


@pytest.mark.parametrize("bits", [0, 9, 2.5])
def test_other_numbers_of_bits_are_refused(bits: int) -> None:
    with pytest.raises(CasemateError, match="1 to 8 of its 8 bits"):
        BitDepth(bits)
