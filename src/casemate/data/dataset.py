"""What a data set is: images, labels and class names, with the checks that every image and label passes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64, Integer, UInt8
from torch import Tensor

from casemate.errors import CasemateError


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set, in memory.

    `images` are float32 in [0, 1], `labels` the index into `classes`. `name` is what `load` was asked for.
    """

    name: str
    split: str
    images: Float32[Tensor, "n channel height width"]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the shape, the images (float32) and the labels (int64), both as little-endian bytes.

        The same images and labels have the same fingerprint wherever they came from, on every machine and with
        every version of PyTorch. Computed anew at each call: 0.2 s or so for the 60,000 images of MNIST.
        """
        digest = hashlib.sha256(" ".join(str(side) for side in self.images.shape).encode() + b"\n")
        digest.update(np.ascontiguousarray(self.images.numpy(), dtype="<f4").data)
        digest.update(np.ascontiguousarray(self.labels.numpy(), dtype="<i8").data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Pixels:
    """What a loader hands over: the images as their files hold them, one byte a value."""

    values: UInt8[np.ndarray, "n channel height width"]
    labels: Integer[np.ndarray, " n"]
    classes: tuple[str, ...]

    def images(self) -> Float32[Tensor, "n channel height width"]:
        """k / 255 for each byte k, rounded once to float32."""
        return torch.from_numpy(np.divide(self.values, np.float32(255), dtype=np.float32))


@dataclass(frozen=True)
class Description:
    """One line of `casemate data`. Numbers are None where they depend on the user's files."""

    name: str
    n_train: int | None
    n_test: int | None
    n_classes: int | None
    shape: tuple[int, int, int] | None  # channel, height, width
    where: str | None  # where all of its files are now; None: nowhere yet
    origin: str  # where they come from when they are not there


@runtime_checkable
class Loader(Protocol):
    """One data set that `load` knows by name."""

    def __call__(self, split: str, *, limit: int | None, root: Path | None, progress: bool) -> Pixels: ...

    def describe(self, root: Path | None) -> Description: ...


def check_images(images: Tensor, labels: Tensor, n_classes: int, what: str) -> None:
    """Refuse what is not a data set; `what` names it in the error.

    `images` must be float32 [N,C,H,W] with every value in [0, 1], `labels` int64 [N] in [0, `n_classes`), N at least 1.
    Raises `CasemateError` that names the first image or label that is not so.
    """
    if images.ndim != 4 or images.dtype != torch.float32 or images.numel() == 0:
        raise CasemateError(
            f"{what}: the images are {_kind(images)}, where float32 of shape [image, channel, height, width], "
            "none of them 0, is needed"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise CasemateError(
            f"{what}: the labels are {_kind(labels)}, where int64 of shape [{len(images)}], one an image, is needed"
        )
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):  # a NaN fails this too
        _refuse_first_bad_image(images, what)
    outside = (labels < 0) | (labels >= n_classes)
    if outside.any():
        index = int(outside.nonzero()[0])
        raise CasemateError(
            f"{what}: the label of image {index} is {int(labels[index])}, outside the {n_classes} classes "
            f"0 to {n_classes - 1}; correct the label or the list of classes"
        )


def _refuse_first_bad_image(images: Tensor, what: str) -> None:
    inside = ((images >= 0) & (images <= 1)).flatten(1)
    index = int((~inside.all(dim=1)).nonzero()[0])
    value = float(images[index].flatten()[~inside[index]][0])
    raise CasemateError(
        f"{what}: image {index} holds the value {value:g}, outside [0, 1]; scale the images to [0, 1], "
        "and let the classifier do its own normalisation"
    )


def _kind(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} of shape {list(values.shape)}"
