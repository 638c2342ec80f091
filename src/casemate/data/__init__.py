"""Data sets by name, in memory: float32 images [N,C,H,W] in [0, 1] and int64 labels [N]."""

from pathlib import Path

import torch

from casemate.data.cifar10 import CIFAR10
from casemate.data.dataset import Dataset, Description, Loader, check_images
from casemate.data.digits_sample import DIGITS_SAMPLE
from casemate.data.mnist import FASHION_MNIST, MNIST
from casemate.data.resized import ResizedLoader
from casemate.errors import CasemateError

__all__ = ["LOADERS", "Dataset", "Description", "check_images", "describe", "load"]

LOADERS: dict[str, Loader] = {
    "digits-sample": DIGITS_SAMPLE,
    "mnist": MNIST,
    "fashion-mnist": FASHION_MNIST,
    "cifar10": CIFAR10,
}
SPLITS = ("train", "test")


def load(
    name: str, split: str = "test", *, limit: int | None = None, root: Path | None = None, progress: bool = False
) -> Dataset:
    """The data set `name`: one of `LOADERS`, or `folder:PATH`.

    One of `LOADERS` followed by @ and a number of pixels, such as `mnist@14`, is that data set with square images of
    that side: pixels repeated to be larger, averaged to be smaller, by a whole factor.

    `limit` takes the first images of the split (all of them where it has fewer). Files are sought in `root` (instead
    of it, in the folder that `CASEMATE_DATA` names), then in the user's cache, and then downloaded to the cache,
    `progress` drawing a bar on standard error. Each file is checked against its published content.

    Raises `CasemateError`: an unknown name or split, a limit below 1, a file that is damaged, absent or not what it
    should be, an image outside [0, 1] or a label outside the classes.
    """
    if split not in SPLITS:
        raise CasemateError(f"there is no split {split!r}; a data set has {' and '.join(SPLITS)}")
    if limit is not None and limit < 1:
        raise CasemateError(f"limit is {limit}, where 1 or more images are needed")
    pixels = _loader(name)(split, limit=limit, root=root, progress=progress)
    images, labels = pixels.images(), torch.from_numpy(pixels.labels.astype("int64"))
    check_images(images, labels, len(pixels.classes), f"{name}[{split}]")
    return Dataset(name, split, images, labels, pixels.classes)


def describe(root: Path | None = None) -> list[Description]:
    """What `load` knows, in the order of `LOADERS`, and where each data set is now; nothing is read or fetched."""
    return [loader.describe(root) for loader in (*LOADERS.values(), _loader("folder:PATH"))]


def _loader(name: str) -> Loader:
    kind, colon, path = name.partition(":")
    if kind == "folder" and colon and path:
        from casemate.data.folder import FolderLoader  # pillow, which no other data set needs

        return FolderLoader(Path(path).expanduser())
    known, at, side = name.partition("@")
    if known not in LOADERS:
        raise CasemateError(f"there is no data set {name!r}; known are {', '.join(LOADERS)} and folder:PATH")
    if not at:
        return LOADERS[known]
    if not side.isdecimal() or int(side) < 1:
        raise CasemateError(f"{name!r} asks for no size: write the side of its images in pixels, such as {known}@14")
    return ResizedLoader(LOADERS[known], int(side))
