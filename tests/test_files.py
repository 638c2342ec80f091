"""Files are whole or absent, whatever goes wrong in between."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from casemate import files
from casemate.errors import CasemateError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_write_creates_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "a" / "b" / "file", b"content")
    assert contents(tmp_path / "a" / "b") == {"file": b"content"}
    files.write_bytes(tmp_path / "a" / "b" / "file", b"new")
    assert contents(tmp_path / "a" / "b") == {"file": b"new"}


def test_reader_never_sees_a_part(tmp_path: Path) -> None:
    target = tmp_path / "file"
    files.write_bytes(target, b"old")
    with files.replacing(target) as temporary:
        temporary.write_bytes(b"ne")
        assert temporary.parent == target.parent, "a rename is atomic within one file system only"
        assert target.read_bytes() == b"old"
        temporary.write_bytes(b"new")
    assert contents(tmp_path) == {"file": b"new"}


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_failure_of_the_writer_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    files.write_bytes(tmp_path / "file", b"old")

    def write_half() -> None:
        with files.replacing(tmp_path / "file") as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_is_one_sentence_and_keeps_the_old_file(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_bytes(tmp_path / "file", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, step, full)
        with pytest.raises(CasemateError, match=r"cannot write .*file: No space left on device; free some space"):
            files.write_bytes(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"file": b"old"}


def test_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CasemateError, match="cannot write"):
        files.write_bytes(tmp_path / "file" / "below", b"new")


def test_permissions_are_those_of_an_ordinary_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_bytes(tmp_path / "file", b"")
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, "ä"], "a": {"nested": True}}
    files.write_json(tmp_path / "value.json", value)
    assert files.read_json(tmp_path / "value.json", "the test") == value
    assert (tmp_path / "value.json").read_text().endswith("}\n")


def test_absent_and_broken_json_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CasemateError, match="absent.json is absent: the test needs it"):
        files.read_json(tmp_path / "absent.json", "the test")
    for name, content in {"half": b'{"a": ', "binary": b"\xff\xfe\x00", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CasemateError, match=f"{name} cannot be read as JSON .*: the test needs it"):
            files.read_json(tmp_path / name, "the test")
    with pytest.raises(CasemateError, match="cannot be read as JSON"):
        files.read_json(tmp_path, "the test")


def test_value_that_is_not_json_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "value.json", {"a": object()})
    assert contents(tmp_path) == {}


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert files.sha256(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
