"""Downloads, against a server on 127.0.0.1: whole and checked in the cache, or one sentence and nothing left behind."""

import gzip
import threading
from pathlib import Path

import pytest
import torch

from casemate.data import download, load
from casemate.errors import CasemateError

NAME = "t10k-images-idx3-ubyte"


@pytest.fixture
def good(tiny, server):
    """The server with the right files."""
    server.bodies = {f"/tiny/{name}.gz": gzip.compress(content) for name, content in tiny.contents.items()}
    return server


def check(dataset, tiny) -> None:
    assert torch.equal(dataset.images[:, 0] * 255, torch.from_numpy(tiny.images["test"].astype("float32")))
    assert dataset.labels.tolist() == tiny.labels["test"].tolist()


def left(folder: Path) -> list[str]:
    """The files in the cache, hidden ones too."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_files_are_fetched_once_and_kept(good, tiny, tmp_path) -> None:
    check(load("tiny"), tiny)
    assert good.asked == [f"/tiny/{NAME}.gz", "/tiny/t10k-labels-idx1-ubyte.gz"]
    assert left(tmp_path / "cache") == [f"{NAME}.gz", "t10k-labels-idx1-ubyte.gz"]
    check(load("tiny"), tiny)
    assert len(good.asked) == 2


def test_an_empty_data_folder_is_no_obstacle(good, tiny, tmp_path) -> None:
    (tmp_path / "data").mkdir()
    check(load("tiny", root=tmp_path / "data"), tiny)
    assert left(tmp_path / "data") == []


def test_a_damaged_file_in_the_cache_is_fetched_again(good, tiny, tmp_path) -> None:
    load("tiny")
    path = tmp_path / "cache" / "tiny" / f"{NAME}.gz"
    path.write_bytes(path.read_bytes()[:-9])
    check(load("tiny"), tiny)
    assert good.asked[2:] == [f"/tiny/{NAME}.gz"]
    assert gzip.decompress(path.read_bytes()) == tiny.contents[NAME]


def test_another_wrapping_of_the_same_content_serves(good, tiny) -> None:
    good.bodies[f"/tiny/{NAME}.gz"] = tiny.contents[NAME]  # not gzipped at all
    check(load("tiny"), tiny)


def test_a_connection_cut_midway(good, tmp_path) -> None:
    good.cut = True
    with pytest.raises(
        CasemateError, match=rf"^tiny: no usable {NAME} or .* \(the connection broke off\); name a folder"
    ):
        load("tiny")
    assert left(tmp_path) == []
    assert len(good.asked) == 1  # tried once, not again and again


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>Sign in to this network</html>", r"what came holds 36 bytes of sha256 .* \(expected: t10k"),
        (b"", "what came holds 0 bytes"),
        (gzip.compress(bytes(96)), r"what came holds 96 bytes of sha256 [0-9a-f]{12}\.\.\. \(expected"),
        (gzip.compress(bytes(96))[:-12], "what came is cut short or not gzip"),
    ],
)
def test_wrong_bytes(good, tmp_path, body: bytes, message: str) -> None:
    good.bodies[f"/tiny/{NAME}.gz"] = body
    with pytest.raises(CasemateError, match=message):
        load("tiny")
    assert left(tmp_path) == []


def test_a_404(good, tmp_path) -> None:
    good.bodies.clear()
    with pytest.raises(CasemateError, match=rf"{good.url}/tiny/{NAME}\.gz \(HTTP status 404\)"):
        load("tiny")
    assert left(tmp_path) == []


def test_one_wrong_file_does_not_cost_the_right_one(good, tiny, tmp_path) -> None:
    label_name = "t10k-labels-idx1-ubyte"
    good.bodies[f"/tiny/{label_name}.gz"] = b"?"
    with pytest.raises(CasemateError, match=f"/tiny/{label_name}"):
        load("tiny")
    assert left(tmp_path) == [f"{NAME}.gz"]


def test_a_server_that_never_answers_is_given_up(good, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.1))
    good.silent = threading.Event()
    try:
        with pytest.raises(CasemateError, match=r"\(no answer in time\)"):
            load("tiny")
    finally:
        good.silent.set()
    assert left(tmp_path) == []


def test_nobody_listens(tiny, tmp_path) -> None:
    # Port 9 of this machine, the only mirror of the data set "tiny".
    match = r"in .*/cache/tiny \(CASEMATE_DATA is not set\), and none to be had from .* \(the connection failed\); name"
    with pytest.raises(CasemateError, match=match):
        load("tiny")
    assert left(tmp_path) == []


def test_no_connection_and_a_damaged_cache_names_both(tiny, tmp_path) -> None:
    tiny.write(tmp_path / "cache" / "tiny")
    path = tmp_path / "cache" / "tiny" / f"{NAME}.gz"
    path.write_bytes(b"")
    with pytest.raises(CasemateError, match=rf"{path} holds 0 bytes.*\(the connection failed\)"):
        load("tiny")
    assert path.exists()


def test_the_next_mirror_is_tried(good, tiny, monkeypatch) -> None:
    bases = (f"{good.url}/absent", f"{good.url}/tiny/")
    monkeypatch.setattr("casemate.data.places.mirrors", lambda source: bases)
    check(load("tiny"), tiny)
    assert good.asked[:2] == [f"/absent/{NAME}.gz", f"/tiny/{NAME}.gz"]


@pytest.mark.parametrize("mirror", ["not an address", "ftp://127.0.0.1/x", "http://"])
def test_a_mirror_that_is_no_address(tiny, monkeypatch, mirror: str) -> None:
    monkeypatch.setenv("CASEMATE_MIRROR", mirror)
    with pytest.raises(CasemateError, match=r"\(no usable address\)"):
        load("tiny")


def test_a_cache_that_cannot_be_written(good, tmp_path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(CasemateError, match="^cannot write .*cache.*: .*choose another folder"):
        load("tiny")
    assert (tmp_path / "cache").read_text().startswith("a file")


def test_a_full_disk(good, monkeypatch, tmp_path) -> None:
    def write(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", write)
    with pytest.raises(CasemateError, match="^cannot write .*No space left on device"):
        load("tiny")
    assert left(tmp_path) == []


def test_progress_goes_to_standard_error_and_nothing_else_does(good, capfd) -> None:
    load("tiny", progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{NAME}.gz" in err
    load("tiny", "train")
    assert capfd.readouterr() == ("", "")
