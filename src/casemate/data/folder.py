"""`folder:PATH`: a user's own images, one folder a class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from casemate.data.dataset import Description, Pixels
from casemate.errors import CasemateError

LAYOUT = "PATH/CLASS/image files, or PATH/train/CLASS/... and PATH/test/CLASS/..."


@dataclass(frozen=True)
class FolderLoader:
    """Images in PATH/CLASS/, or in PATH/train/CLASS/ and PATH/test/CLASS/ where either of these two holds folders.

    The classes are the sorted names of the folders, of both splits together. Without the two splits every image belongs
    to the test split, and there is nothing to train on. The images come in turn: the first of each class, then the
    second of each class and so on, files sorted by name, so that the first N are spread over the classes. They are read
    as stored (8 bits, grey or RGB; no rotation by metadata), and all of them must be of one size and kind.
    """

    path: Path

    def __call__(self, split: str, *, limit: int | None, root: Path | None, progress: bool) -> Pixels:
        """Decodes (and checks) no more than the `limit` images it returns; raises `CasemateError`."""
        split_folder, classes = self._layout(split)
        files = [_files(split_folder / name) for name in classes]
        chosen = list(islice(_in_turn(files), limit))
        if not chosen:
            raise CasemateError(f"{split_folder} holds no image; the layout is {LAYOUT}")
        labels = np.array([label for label, _ in chosen], np.int64)
        return Pixels(_read_all([path for _, path in chosen]), labels, tuple(classes))

    def _layout(self, split: str) -> tuple[Path, list[str]]:
        """The folder that holds the class folders of `split`, and the names of the classes."""
        if not self.path.is_dir():
            raise CasemateError(f"folder:{self.path} names no folder that is there; the layout is {LAYOUT}")
        splits = [self.path / name for name in ("train", "test") if _folders(self.path / name)]
        if not splits and split == "train":
            raise CasemateError(
                f"folder:{self.path} has no training split; put the class folders of each split into "
                f"{self.path / 'train'} and {self.path / 'test'}"
            )
        if splits and self.path / split not in splits:
            raise CasemateError(
                f"folder:{self.path} has no {split} split; put its class folders into {self.path / split}"
            )
        holders = splits or [self.path]
        classes = sorted({name for holder in holders for name in _folders(holder)})
        return (self.path / split if splits else self.path), classes

    def describe(self, root: Path | None) -> Description:
        return Description(
            name="folder:PATH",
            n_train=None,
            n_test=None,
            n_classes=None,
            shape=None,
            where=None,
            origin=f"your own images: {LAYOUT}",
        )


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        return []
    return [entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _files(path: Path) -> list[Path]:
    """What a class folder holds, by name; the hidden files that desktops leave behind are no images."""
    return sorted(entry for entry in path.iterdir() if not entry.name.startswith(".")) if path.is_dir() else []


def _in_turn(files: Sequence[Sequence[Path]]) -> Iterator[tuple[int, Path]]:
    labelled = ([(label, path) for path in paths] for label, paths in enumerate(files))
    return (pair for pair in chain.from_iterable(zip_longest(*labelled)) if pair is not None)


def _read_all(paths: Sequence[Path]) -> UInt8[np.ndarray, "n channel height width"]:
    first = _read(paths[0])
    values = np.empty((len(paths), *first.shape), np.uint8)
    values[0] = first
    for index, path in enumerate(paths[1:], start=1):
        image = _read(path)
        if image.shape != first.shape:
            raise CasemateError(
                f"{path} is {_size(image)}, where {paths[0]} is {_size(first)}; bring all images to one size and kind"
            )
        values[index] = image
    return values


def _read(path: Path) -> UInt8[np.ndarray, "channel height width"]:
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no image that pillow can read"
        raise CasemateError(f"{path} cannot be used ({reason}); repair it or take it out of the folder") from None
    if mode not in ("L", "RGB"):
        raise CasemateError(f"{path} is of pillow's mode {mode}; save it as 8-bit grey (L) or RGB")
    return values[None] if mode == "L" else values.transpose(2, 0, 1)


def _size(image: UInt8[np.ndarray, "channel height width"]) -> str:
    channels, height, width = image.shape
    return f"{width} x {height} {'grey' if channels == 1 else 'RGB'}"
