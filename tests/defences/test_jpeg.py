"""JPEG answers as Pillow's encoder and decoder do, value for value."""

import io
import math

import matplotlib.cbook
import numpy as np
import pytest
import torch
from PIL import Image, features
from torch import Tensor

from casemate.data import load
from casemate.defences import JPEG
from casemate.defences.jpeg import COSINES
from casemate.errors import CasemateError
from casemate.testing import check_defence

with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as opened:
    PHOTO = np.asarray(opened)

as_in_pillow = pytest.mark.skipif(
    not features.check_feature("libjpeg_turbo"), reason="this Pillow has another libjpeg, which rounds otherwise"
)


def from_pillow(images: Tensor, quality: int, subsample: bool) -> Tensor:
    """What Pillow makes of byte images [N, C, H, W]."""
    answers = []
    for image in images.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
        picture.save(file, "jpeg", quality=quality, subsampling=2 if subsample else 0)
        answers.append(np.asarray(Image.open(file)).reshape(image.shape))
    return torch.from_numpy(np.stack(answers)).permute(0, 3, 1, 2)


def tiles(n: int, height: int, width: int) -> Tensor:
    """`n` pieces of a photograph, byte images [N, 3, height, width]."""
    rows, columns = np.random.default_rng(0).integers(0, [[600 - height], [512 - width]], (2, n))
    pieces = [PHOTO[row : row + height, column : column + width] for row, column in zip(rows, columns, strict=True)]
    return torch.from_numpy(np.stack(pieces)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 8, 9)])
def test_conforms(image_shape: tuple[int, ...]) -> None:
    check_defence(JPEG(), image_shape=image_shape)


@as_in_pillow
@pytest.mark.parametrize("size", [(32, 32), (37, 45), (16, 9), (5, 6)])
@pytest.mark.parametrize("subsample", [True, False])
@pytest.mark.parametrize("quality", [1, 30, 75, 100])
def test_photographs_come_back_as_from_pillow(quality: int, subsample: bool, size: tuple[int, int]) -> None:
    images = tiles(10, *size)
    answer = JPEG(quality, subsample=subsample)(images / 255)
    assert torch.equal(answer, from_pillow(images, quality, subsample) / 255)


@as_in_pillow
def test_the_defaults_are_those_of_pillow_at_75() -> None:
    images = torch.randint(256, (4, 3, 21, 40), dtype=torch.uint8)
    assert torch.equal(JPEG()(images / 255), from_pillow(images, 75, True) / 255)


@as_in_pillow
@pytest.mark.parametrize("quality", [10, 75])
def test_digits_come_back_as_from_pillow(quality: int) -> None:
    images = (load("digits-sample", "test", limit=50).images * 255).round().byte()
    assert torch.equal(JPEG(quality)(images / 255), from_pillow(images, quality, True) / 255)


def test_values_between_are_truncated_to_bytes() -> None:
    images = tiles(3, 16, 16)
    between = images / 255 + torch.rand(images.shape) * 0.9 / 255
    assert torch.equal(JPEG()(between.clamp(0, 1)), JPEG()(images / 255))


def test_a_copy_in_low_precision_keeps_the_tables() -> None:
    images = tiles(3, 16, 16) / 255
    assert torch.equal(JPEG().to(torch.bfloat16)(images), JPEG()(images))


def test_the_cosines_are_within_two_units_of_the_formula() -> None:
    for frequency, row in enumerate(COSINES):
        for place, entry in enumerate(row):
            norm = 1 if frequency == 0 else math.sqrt(2)
            exact = 8192 * norm * math.cos((2 * place + 1) * frequency * math.pi / 16)
            assert abs(entry - exact) < 2


@pytest.mark.parametrize("quality", [0, 101, 7.5])
def test_other_qualities_are_refused(quality: int) -> None:
    with pytest.raises(CasemateError, match="from 1 to 100"):
        JPEG(quality)


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(CasemateError, match="1 or 3 channels, not 2"):
        JPEG()(torch.zeros(1, 2, 8, 8))
