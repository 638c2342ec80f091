"""`NAME@SIDE`: images at another size, to the byte."""

import numpy as np
import pytest
import torch

from casemate import data
from casemate.data.resized import resized
from casemate.errors import CasemateError


def bytes_of(n: int, side: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, channels, side, side), dtype=np.uint8)


def test_smaller_images_are_rounded_means_and_larger_ones_repeat_their_pixels() -> None:
    digits, small, large = (data.load(f"digits-sample{size}", "test", limit=20) for size in ("", "@14", "@56"))
    assert small.images.shape == (20, 1, 14, 14)
    means = torch.nn.functional.avg_pool2d(digits.images, 2)
    assert (small.images - means).abs().max() <= 0.5 / 255 + 1e-6
    levels = 255 * small.images
    assert (levels - levels.round()).abs().max() < 1e-4
    assert torch.equal(large.images, digits.images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    for loaded in (small, large):
        assert torch.equal(loaded.labels, digits.labels)
        assert loaded.classes == digits.classes
    assert small.name == "digits-sample@14"
    assert len({digits.fingerprint, small.fingerprint, large.fingerprint}) == 3


def test_the_own_size_changes_nothing() -> None:
    own, same = (data.load(name, "train", limit=3) for name in ("digits-sample", "digits-sample@28"))
    assert torch.equal(own.images, same.images)


def test_half_a_level_is_rounded_up_and_colours_stay_apart() -> None:
    square = np.array([[[[0, 1], [0, 1]], [[255, 255], [255, 254]], [[7, 7], [7, 7]]]], dtype=np.uint8)
    assert resized(square, 1).flatten().tolist() == [1, 255, 7]


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_averaging_undoes_enlargement(factor: int) -> None:
    values = bytes_of(3, 8, channels=3)
    assert np.array_equal(resized(resized(values, 8 * factor), 8), values)


@pytest.mark.parametrize("side", [30, 29, 42, 5])
def test_a_size_by_no_whole_factor_is_refused(side: int) -> None:
    with pytest.raises(CasemateError, match=f"28 x 28 pixels do not become {side} x {side} by a whole factor"):
        data.load(f"digits-sample@{side}", limit=1)


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(CasemateError, match="8 x 4 pixels do not become"):
        resized(np.zeros((1, 1, 4, 8), dtype=np.uint8), 4)


@pytest.mark.parametrize("name", ["digits-sample@", "digits-sample@0", "digits-sample@-14", "digits-sample@14@28"])
def test_a_name_without_a_size_is_refused(name: str) -> None:
    with pytest.raises(CasemateError, match="write the side of its images in pixels, such as digits-sample@14"):
        data.load(name)


def test_an_unknown_name_with_a_size_lists_the_known_ones() -> None:
    with pytest.raises(CasemateError, match="there is no data set 'emnist@14'; known are digits-sample"):
        data.load("emnist@14")
