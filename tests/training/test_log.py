import json
from pathlib import Path

import pytest

from casemate.errors import CasemateError
from casemate.training.log import LOG, Log


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_lines_after_the_step_of_the_state_are_written_again(tmp_path: Path) -> None:
    log = Log(tmp_path, 5, None)
    log.go_on_from(0)
    for step in (1, 2, 2, 3, 4):
        log.write({"kind": "train", "step": step})
    log.go_on_from(2)
    log.write({"kind": "train", "step": 3})
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 2, 3]


@pytest.mark.parametrize("torn", ['{"kind": "tra', '{"kind": "train", "step": 3', "\x00\x00\x00", "é\udcff"])
def test_a_line_that_was_being_written_is_dropped(torn: str, tmp_path: Path) -> None:
    log = Log(tmp_path, 5, None)
    log.go_on_from(0)
    log.write({"kind": "train", "step": 1})
    with (tmp_path / LOG).open("ab") as file:
        file.write(torn.encode(errors="surrogateescape"))
    log.go_on_from(3)
    log.write({"kind": "train", "step": 4})
    assert [row["step"] for row in rows(tmp_path)] == [1, 4]


def test_an_observer_hears_of_a_line_that_is_written(tmp_path: Path) -> None:
    heard = []
    log = Log(tmp_path, 9, lambda row, total: heard.append((row["step"], total, len(rows(tmp_path)))))
    log.go_on_from(0)
    for step in (1, 2):
        log.write({"kind": "train", "step": step})
    assert heard == [(1, 9, 1), (2, 9, 2)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    log = Log(tmp_path, 9, None)
    (tmp_path / LOG).symlink_to("/dev/full")
    with pytest.raises(CasemateError, match="No space left on device; free some space and go on with --resume"):
        log.write({"kind": "train", "step": 1})
