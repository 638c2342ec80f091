"""CIFAR-10's records, from a folder, from an archive and from a mirror, with three images a file instead of 10,000."""

import hashlib
import io
import tarfile

import numpy as np
import pytest
import torch

from casemate.data import LOADERS, describe, load
from casemate.data.canonical import CanonicalFile, Source
from casemate.data.cifar10 import CIFAR10, RECORD_BYTES, BinaryLoader
from casemate.errors import CasemateError

FOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"
NAMES = [file.name for file in CIFAR10.source.files]


@pytest.fixture
def records(tiny, monkeypatch) -> dict[str, np.ndarray]:
    """The records of each file; "cifar10" stands for them while the test runs."""
    rng = np.random.default_rng(1)
    made = {name: rng.integers(0, 256, (3, RECORD_BYTES), dtype=np.uint8) for name in NAMES}
    for values in made.values():
        values[:, 0] %= 10
    files = tuple(
        CanonicalFile(name, values.nbytes, hashlib.sha256(values.tobytes()).hexdigest())
        for name, values in made.items()
    )
    source = Source("cifar10", files, ("http://127.0.0.1:9/nowhere",), folder=FOLDER, archive=ARCHIVE)
    monkeypatch.setitem(LOADERS, "cifar10", BinaryLoader(source))
    return made


def packed(records: dict[str, np.ndarray], folder: str = FOLDER) -> bytes:
    """A tar.gz like the canonical one: its files in no particular order, a text and a page beside them."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in ["readme.html", *reversed(records), "batches.meta.txt"]:
            content = records[name].tobytes() if name in records else b"text"
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def check(records: dict[str, np.ndarray], **where) -> None:
    expected = {"train": np.concatenate([records[name] for name in NAMES[:5]]), "test": records[NAMES[5]]}
    for split, rows in expected.items():
        dataset = load("cifar10", split, **where)
        assert dataset.images.shape == (len(rows), 3, 32, 32)
        assert dataset.labels.tolist() == rows[:, 0].tolist()
        assert torch.equal((dataset.images * 255).round().byte().flatten(1), torch.from_numpy(rows[:, 1:].copy()))


def test_one_record_by_hand(records, tmp_path) -> None:
    # Red plane first, rows first: the byte after 1,024 red ones and one row of green ones is green at row 1, column 0.
    (tmp_path / "test_batch.bin").write_bytes(records["test_batch.bin"].tobytes())
    image = load("cifar10", root=tmp_path, limit=1).images[0]
    assert round(float(image[1, 1, 0]) * 255) == records["test_batch.bin"][0, 1 + 1024 + 32]
    assert round(float(image[2, 0, 5]) * 255) == records["test_batch.bin"][0, 1 + 2048 + 5]


@pytest.mark.parametrize("below", [FOLDER, f"cifar10/{FOLDER}", "cifar10", ""])
def test_from_a_folder(records, tmp_path, below) -> None:
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    for name, values in records.items():
        (tmp_path / below / name).write_bytes(values.tobytes())
    check(records, root=tmp_path)
    described = {line.name: line for line in describe(tmp_path)}["cifar10"]
    assert described.where == str(tmp_path / below)


@pytest.mark.parametrize("below", ["", "cifar10"])
def test_from_the_archive_in_the_data_folder(records, tmp_path, below) -> None:
    (tmp_path / below).mkdir(exist_ok=True)
    (tmp_path / below / ARCHIVE).write_bytes(packed(records))
    check(records, root=tmp_path)
    assert not (tmp_path / "cache").exists()


def test_from_a_mirror_once(records, server, tmp_path) -> None:
    server.bodies[f"/cifar10/{ARCHIVE}"] = packed(records)
    check(records)
    assert server.asked == [f"/cifar10/{ARCHIVE}"]
    kept = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert kept == sorted(NAMES)  # the archive itself is not kept


def _lacking(records):
    return packed({name: values for name, values in records.items() if name != "test_batch.bin"})


def _changed(records):
    return packed(records | {"test_batch.bin": records["test_batch.bin"] ^ 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda records: packed(records)[:5000], "is cut short or not a tar file"),
        (lambda records: b"no tar", "is cut short or not a tar file"),
        (_lacking, "does not hold test_batch.bin"),
        (_changed, r"holds 9,219 bytes of sha256 [0-9a-f]{12}\.\.\. \(expected: test_batch.bin, 9,219 bytes"),
    ],
)
def test_a_damaged_archive(records, server, tmp_path, content, message) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / ARCHIVE).write_bytes(content(records))
    with pytest.raises(CasemateError, match=f"^{folder / ARCHIVE} {message}"):
        load("cifar10", root=folder)
    assert server.asked == []
    server.bodies[f"/cifar10/{ARCHIVE}"] = content(records)
    with pytest.raises(CasemateError, match=f"{ARCHIVE} .what came {message}"):
        load("cifar10")
    left = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert left <= set(NAMES) - {"test_batch.bin"}  # whole files that were checked, no archive, no part of one


def test_an_archive_cannot_write_outside_the_cache(records, server, tmp_path) -> None:
    server.bodies[f"/cifar10/{ARCHIVE}"] = packed(records, folder="../../../outside")
    check(records)
    assert not list(tmp_path.rglob("outside"))
    assert (tmp_path / "cache" / "cifar10" / FOLDER / "test_batch.bin").is_file()


def test_a_truncated_batch_is_named(records, tmp_path) -> None:
    path = tmp_path / "test_batch.bin"
    path.write_bytes(records["test_batch.bin"].tobytes()[:-1])
    with pytest.raises(CasemateError, match=f"^{path} holds 9,218 bytes of sha256 .*expected: test_batch.bin, 9,219"):
        load("cifar10", root=tmp_path)
