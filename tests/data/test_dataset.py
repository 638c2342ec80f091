"""What a data set is: the checks, the fingerprint, and bytes becoming numbers in [0, 1]."""

import hashlib
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch

from casemate.data import Dataset, check_images
from casemate.data.dataset import Pixels
from casemate.errors import CasemateError

IMAGES = torch.linspace(0, 1, 24).reshape(3, 2, 2, 2)
LABELS = torch.tensor([0, 1, 0])


def test_every_byte_becomes_the_float32_nearest_to_k_over_255() -> None:
    pixels = Pixels(np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1), np.zeros(256, np.uint8), ("a",))
    images = pixels.images()
    assert images.dtype == torch.float32
    for k, value in enumerate(images.flatten().numpy()):
        error = abs(Fraction(float(value)) - Fraction(k, 255))
        neighbours = (np.nextafter(value, np.float32(-1)), np.nextafter(value, np.float32(2)))
        assert all(error <= abs(Fraction(float(other)) - Fraction(k, 255)) for other in neighbours)


def test_fingerprint_is_that_of_the_documented_bytes() -> None:
    content = b"3 2 2 2\n" + struct.pack("<24f", *IMAGES.flatten().tolist()) + struct.pack("<3q", 0, 1, 0)
    assert Dataset("x", "test", IMAGES, LABELS, ("a", "b")).fingerprint == hashlib.sha256(content).hexdigest()


def test_fingerprint_sees_values_labels_and_shape_but_not_memory_layout() -> None:
    def fingerprint(images: torch.Tensor, labels: torch.Tensor) -> str:
        return Dataset("x", "test", images, labels, ("a", "b")).fingerprint

    plain = fingerprint(IMAGES, LABELS)
    assert fingerprint(IMAGES.contiguous(memory_format=torch.channels_last), LABELS) == plain
    assert fingerprint(IMAGES.reshape(3, 2, 4, 1), LABELS) != plain
    assert fingerprint(IMAGES, LABELS.roll(1)) != plain
    assert fingerprint(torch.nextafter(IMAGES, torch.ones(())), LABELS) != plain


def test_good_images_pass() -> None:
    check_images(IMAGES, LABELS, 2, "x")


@pytest.mark.parametrize("value", [-1e-6, 1 + 1e-6, 255.0, float("nan"), float("inf"), -float("inf")])
def test_the_first_image_outside_0_to_1_is_named(value: float) -> None:
    images = IMAGES.clone()
    images[1, 0, 1, 1] = value
    images[2, 0, 0, 0] = -7
    with pytest.raises(CasemateError, match=rf"^x: image 1 holds the value {value:g}, outside \[0, 1\]"):
        check_images(images, LABELS, 2, "x")


@pytest.mark.parametrize("label", [-1, 10, 2**40])
def test_the_first_label_outside_the_classes_is_named(label: int) -> None:
    with pytest.raises(CasemateError, match=f"^x: the label of image 2 is {label}, outside the 10 classes 0 to 9"):
        check_images(IMAGES, torch.tensor([9, 0, label]), 10, "x")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.double(), LABELS, "images are float64 of shape"),
        ((IMAGES * 255).byte(), LABELS, "images are uint8 of shape"),
        (IMAGES[0], LABELS, r"shape \[2, 2, 2\]"),
        (IMAGES[:0], LABELS[:0], r"shape \[0, 2, 2, 2\]"),
        (IMAGES, LABELS.int(), "labels are int32"),
        (IMAGES, LABELS[:2], r"labels are int64 of shape \[2\]"),
    ],
)
def test_another_type_or_shape_is_refused(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        check_images(images, labels, 2, "x")
