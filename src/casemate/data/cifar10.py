"""CIFAR-10 in its binary form.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", technical report, University of Toronto,
2009; layout of the files: the data set's own page. Each record is one label byte and 3,072 pixel bytes: the red, the
green and the blue plane, rows first. The published MD5 of the archive is c32a1d4ab5d03f1284b67883e8d87530; what is
checked here is each file in it, so that an unpacked folder and an archive that was packed anew serve as well.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from casemate.data import places
from casemate.data.canonical import CanonicalFile, Source
from casemate.data.dataset import Description, Pixels

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
RECORD_BYTES = 1 + 3 * 32 * 32


@dataclass(frozen=True)
class BinaryLoader:
    """A data set in files of CIFAR-10's records: the last of the source's files is the test split, the others train."""

    source: Source

    def __call__(self, split: str, *, limit: int | None, root: Path | None, progress: bool) -> Pixels:
        files = self.source.files[:-1] if split == "train" else self.source.files[-1:]
        contents = places.read(self.source, files, root, progress)
        records = np.concatenate([np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES) for content in contents])
        records = records[:limit]
        return Pixels(records[:, 1:].reshape(-1, *SHAPE), records[:, 0], CLASSES)

    def describe(self, root: Path | None) -> Description:
        return Description(
            name=self.source.name,
            n_train=50_000,
            n_test=10_000,
            n_classes=len(CLASSES),
            shape=SHAPE,
            where=places.where(self.source, root),
            origin="download, 170 MB, from www.cs.toronto.edu/~kriz",
        )


def _batch(name: str, sha256: str) -> CanonicalFile:
    return CanonicalFile(name, 10_000 * RECORD_BYTES, sha256)


CIFAR10 = BinaryLoader(
    Source(
        name="cifar10",
        files=(
            _batch("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
            _batch("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
            _batch("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
            _batch("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
            _batch("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
            _batch("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
        ),
        mirrors=("https://www.cs.toronto.edu/~kriz",),
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
    )
)
