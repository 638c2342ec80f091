"""Where files are sought, and that a wrong one in the user's own folder is named and never passed over."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from casemate.data import describe, idx, load
from casemate.errors import CasemateError

NAME = "t10k-images-idx3-ubyte"


def check(dataset, tiny, split="test") -> None:
    assert torch.equal(dataset.images[:, 0] * 255, torch.from_numpy(tiny.images[split].astype("float32")))
    assert dataset.labels.tolist() == tiny.labels[split].tolist()


@pytest.mark.parametrize("below", ["", "tiny"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_data_folder_and_its_subfolder_are_looked_in(tiny, monkeypatch, tmp_path, below, split) -> None:
    tiny.write(tmp_path / "data" / below)
    monkeypatch.setenv("CASEMATE_DATA", str(tmp_path / "data"))
    check(load("tiny", split), tiny, split)
    assert describe()[-2].where == str(tmp_path / "data" / below)
    assert not (tmp_path / "cache").exists()


def test_root_replaces_the_environment(tiny, monkeypatch, tmp_path) -> None:
    tiny.write(tmp_path / "data")
    monkeypatch.setenv("CASEMATE_DATA", str(tmp_path / "not there"))
    check(load("tiny", root=tmp_path / "data"), tiny)


def test_plain_files_serve_under_either_name(tiny, tmp_path) -> None:
    for index, (name, content) in enumerate(tiny.contents.items()):
        (tmp_path / (name if index % 2 else f"{name}.gz")).write_bytes(content)
    check(load("tiny", root=tmp_path), tiny)
    check(load("tiny", "train", root=tmp_path), tiny, "train")


def test_a_data_folder_that_is_none_is_refused(tiny, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CASEMATE_DATA", str(tmp_path / "typo"))
    with pytest.raises(CasemateError, match=r"typo is no folder that can be read; name one that is"):
        load("tiny")
    assert len(load("digits-sample", limit=1)) == 1  # which needs none


def _longer(content: bytes) -> bytes:
    return gzip.compress(gzip.decompress(content) + b"\0")


def _other(content: bytes) -> bytes:
    values = idx.decode(gzip.decompress(content), "x").copy()
    values.flat[0] ^= 1
    return gzip.compress(idx.encode(values))


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-20], "is cut short or not gzip all through"),
        (lambda content: gzip.decompress(content)[:-20], r"holds 76 bytes of sha256 [0-9a-f]{12}\.\.\. "),
        (lambda content: b"", r"holds 0 bytes of sha256 e3b0c44298fc\.\.\. "),
        (_longer, "holds more than 96 bytes "),
        (_other, r"holds 96 bytes of sha256 [0-9a-f]{12}\.\.\. "),
        (_flipped, "is cut short or not gzip all through|holds "),
        (lambda content: content + b"more", "is cut short or not gzip all through"),
        (lambda content: gzip.compress(bytes(50_000_000), 1), "holds more than 96 bytes "),
    ],
)
def test_a_damaged_file_is_named_and_never_passed_over(tiny, server, tmp_path, damage, message) -> None:
    server.bodies = {f"/tiny/{name}.gz": gzip.compress(content) for name, content in tiny.contents.items()}
    tiny.write(tmp_path / "data")
    path = tmp_path / "data" / f"{NAME}.gz"
    path.write_bytes(damage(path.read_bytes()))
    expected = rf"\(expected: {NAME}, 96 bytes of sha256 [0-9a-f]{{12}}\.\.\.\): put tiny's own file into .*/data/tiny"
    with pytest.raises(CasemateError, match=f"^{path} ({message}).*{expected}"):
        load("tiny", root=tmp_path / "data")
    assert server.asked == []
    assert not (tmp_path / "cache").exists()


def test_a_file_that_cannot_be_read_is_named(tiny, tmp_path) -> None:
    (tmp_path / "data").mkdir()
    tiny.write(tmp_path / "data")
    path = tmp_path / "data" / f"{NAME}.gz"
    path.unlink()
    path.symlink_to("/proc/self/mem")  # a file that is there, and gives an error when read
    if not Path("/proc/self/mem").is_file():
        pytest.skip("no /proc/self/mem on this machine")
    with pytest.raises(CasemateError, match=f"^{path} cannot be read"):
        load("tiny", root=tmp_path / "data")


def test_what_the_data_folder_lacks_comes_from_the_cache(tiny, tmp_path) -> None:
    tiny.write(tmp_path / "cache" / "tiny")
    tiny.write(tmp_path / "data")
    (tmp_path / "data" / f"{NAME}.gz").unlink()
    check(load("tiny", root=tmp_path / "data"), tiny)
    assert describe()[-2].where == str(tmp_path / "cache" / "tiny")


def test_labels_are_checked_even_in_a_canonical_file(tiny, tmp_path, monkeypatch) -> None:
    # A label 10 can only come with its own hash; the check of the labels stands behind the check of the hash.
    from casemate.data import LOADERS
    from casemate.data.mnist import IdxLoader

    loader = LOADERS["tiny"]
    assert isinstance(loader, IdxLoader)
    monkeypatch.setitem(LOADERS, "tiny", IdxLoader(loader.source, ("a", "b"), "download"))
    tiny.write(tmp_path)
    with pytest.raises(CasemateError, match=r"^tiny\[test\]: the label of image 2 is 2, outside the 2 classes 0 to 1"):
        load("tiny", root=tmp_path)


def test_limit_takes_the_first(tiny, tmp_path) -> None:
    tiny.write(tmp_path)
    part = load("tiny", root=tmp_path, limit=2)
    assert part.labels.tolist() == [0, 1]
    assert np.array_equal((part.images[:, 0] * 255).numpy(), tiny.images["test"][:2])
