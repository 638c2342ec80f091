"""MNIST, and Fashion-MNIST in the same four files.

Sources: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", Proceedings of
the IEEE 86(11), 1998; Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
algorithms", arXiv:1708.07747, 2017. The hashes are those of the uncompressed content, after its MD5 was compared with
the published one (train images of MNIST 6bbc9ace898e44ae57da46a324031adb, of Fashion-MNIST
f4a8712d7a061bf5bd6d2ca38dc4d50a).
"""

from dataclasses import dataclass
from pathlib import Path

from casemate.data import idx, places
from casemate.data.canonical import CanonicalFile, Source
from casemate.data.dataset import Description, Pixels

IMAGES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}


@dataclass(frozen=True)
class IdxLoader:
    """A data set in four IDX files named like MNIST's: 60,000 training and 10,000 test images, grey, 28 x 28."""

    source: Source
    classes: tuple[str, ...]
    origin: str

    def __call__(self, split: str, *, limit: int | None, root: Path | None, progress: bool) -> Pixels:
        by_name = {file.name: file for file in self.source.files}
        names = (IMAGES[split], LABELS[split])
        contents = places.read(self.source, [by_name[name] for name in names], root, progress)
        images, labels = (idx.decode(content, name)[:limit] for content, name in zip(contents, names, strict=True))
        return Pixels(images[:, None], labels, self.classes)

    def describe(self, root: Path | None) -> Description:
        return Description(
            name=self.source.name,
            n_train=60_000,
            n_test=10_000,
            n_classes=len(self.classes),
            shape=(1, 28, 28),
            where=places.where(self.source, root),
            origin=self.origin,
        )


def _four_files(train_images: str, train_labels: str, test_images: str, test_labels: str) -> tuple[CanonicalFile, ...]:
    return (
        CanonicalFile(IMAGES["train"], 16 + 60_000 * 28 * 28, train_images),
        CanonicalFile(LABELS["train"], 8 + 60_000, train_labels),
        CanonicalFile(IMAGES["test"], 16 + 10_000 * 28 * 28, test_images),
        CanonicalFile(LABELS["test"], 8 + 10_000, test_labels),
    )


MNIST = IdxLoader(
    Source(
        name="mnist",
        files=_four_files(
            train_images="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            train_labels="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            test_images="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            test_labels="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
    ),
    classes=tuple("0123456789"),
    origin="download, 12 MB, from ossci-datasets.s3.amazonaws.com",
)

FASHION_MNIST = IdxLoader(
    Source(
        name="fashion-mnist",
        files=_four_files(
            train_images="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            train_labels="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            test_images="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            test_labels="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
    ),
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    origin="download, 31 MB, from fashion-mnist.s3-website.eu-central-1.amazonaws.com",
)
