"""`digits-sample`, the data set that travels with Casemate: 5,000 real MNIST digits, 4,000 to train and 1,000 to test.

`scripts/make_digits_sample.py` makes its four files, in MNIST's format; `sample/README.md` tells where the digits come
from, their licence and their order. All of them are from MNIST's training split: a network trained on the whole of
MNIST has seen the test images of this sample too.
"""

from dataclasses import dataclass
from pathlib import Path

from casemate.data import idx
from casemate.data.canonical import CanonicalFile, Damaged, read_file
from casemate.data.dataset import Description, Pixels
from casemate.errors import CasemateError

FOLDER = Path(__file__).parent / "sample"


def _files(split: str, n_images: int, images: str, labels: str) -> tuple[CanonicalFile, CanonicalFile]:
    return (
        CanonicalFile(f"{split}-images-idx3-ubyte", 16 + n_images * 28 * 28, images),
        CanonicalFile(f"{split}-labels-idx1-ubyte", 8 + n_images, labels),
    )


FILES = {
    "train": _files(
        "train",
        4_000,
        images="35f7b407927fd2c78ec20f0d5873ce77fba5a3a65899ec55487bce2b27e2c0b5",
        labels="efdbd028ad59e43a38f826916f3e5e2eeb3ef76dc08d6d2faa0aea8d76aa851f",
    ),
    "test": _files(
        "test",
        1_000,
        images="a45b68e61728557a819cfe365105d9ec04fd2dfd2ca5e36ea300fdb3608cc68e",
        labels="b9cb9353402e6936e69b5e4acb874cc8b8a18043527ca6f7cdc6fec54ef0d161",
    ),
}


@dataclass(frozen=True)
class SampleLoader:
    """The embedded sample in `folder`; each class has 400 training and 100 test images, and any ten images that start
    at a multiple of ten have one of each class."""

    folder: Path = FOLDER

    def __call__(self, split: str, *, limit: int | None, root: Path | None, progress: bool) -> Pixels:
        images, labels = (idx.decode(self._read(file), file.name)[:limit] for file in FILES[split])
        return Pixels(images[:, None], labels, tuple("0123456789"))

    def describe(self, root: Path | None) -> Description:
        return Description(
            name="digits-sample",
            n_train=4_000,
            n_test=1_000,
            n_classes=10,
            shape=(1, 28, 28),
            where=str(self.folder),
            origin="part of Casemate",
        )

    def _read(self, file: CanonicalFile) -> bytes:
        path = self.folder / f"{file.name}.gz"
        try:
            return read_file(path, file)
        except Damaged as error:
            raise CasemateError(f"{path} {error}: it is part of Casemate, so install Casemate again") from None


DIGITS_SAMPLE = SampleLoader()
