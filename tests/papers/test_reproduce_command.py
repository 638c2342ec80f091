"""`casemate reproduce` as a user runs it: its two streams and its exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_reproduce import made_up, paper_of

from casemate.cli import main
from casemate.papers import reproduce as papers
from casemate.papers.item import Outcome, Run
from casemate.papers.madry2018.items import MADRY2018


def casemate(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "casemate.cli", "reproduce", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"COLUMNS": "500", "PATH": ""},
    )


def test_it_lists_the_items_of_a_paper_with_their_times(tmp_path: Path) -> None:
    result = casemate("madry2018", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    words = " ".join(result.stdout.split())
    for item in MADRY2018.items:
        assert item.name in words
        assert item.times["small"] in words
    assert not list(tmp_path.iterdir())


def test_an_unknown_precision_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    result = casemate("gowal2018", "mnist", "--precision", "float8", cwd=tmp_path)
    assert result.returncode == 2
    assert "bfloat16" in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_item_is_refused_in_one_sentence_that_lists_the_known_ones(tmp_path: Path) -> None:
    result = casemate("madry2018", "figure99", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("casemate: ")
    assert ", ".join(item.name for item in MADRY2018.items) in sentence
    assert not list(tmp_path.iterdir())


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["casemate", "reproduce", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    code = stopped.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture
def _toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(papers.PAPERS, "toys2020", paper_of(made_up))


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (("madry2019",), "madry2018, athalye2018, gowal2018, mirman2018, toys2020"),
        (("toys2020", "toy1", "--device", "tpu9"), "cpu, cuda or auto"),
    ],
)
@pytest.mark.usefixtures("_toys")
def test_what_is_unknown_is_refused_with_what_is_known(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    known: str,
) -> None:
    assert run_main(monkeypatch, *arguments) == 2
    assert known in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_toys")
def test_it_makes_an_item_and_prints_published_beside_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "toys2020", "toy1", "--out", "made") == 0
    printed = capsys.readouterr()
    assert "published" in printed.out
    assert "1.25" in printed.out
    assert "losses.png" in printed.err
    assert (tmp_path / "made" / "toys2020" / "toy1-small" / "losses.png").is_file()


@pytest.mark.usefixtures("_toys")
def test_json_is_one_object_and_all_that_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "toys2020", "toy1", "--full", "--seed", "7", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["setting"], printed["seed"]) == ("full", 7)
    assert printed["command"] == "casemate reproduce toys2020 toy1 --full --seed 7 --json"
    folder = tmp_path / printed["folder"]
    assert all((folder / file).is_file() for file in printed["files"])
    assert printed["rows"] == json.loads((folder / "toy1.json").read_text())["rows"]
    assert run_main(monkeypatch) == 0
    assert "madry2018" in capsys.readouterr().out
    assert run_main(monkeypatch, "--json") == 0
    assert json.loads(capsys.readouterr().out)["toys2020"] == "Toys"
    assert run_main(monkeypatch, "toys2020", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["times"] == {"small": "a second", "full": "a year"}


def test_ctrl_c_says_that_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(run: Run) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(papers.PAPERS, "toys2020", paper_of(interrupted))
    assert run_main(monkeypatch, "toys2020", "toy1") == 130
    assert "goes on" in capsys.readouterr().err
