"""The page that compares runs, and when it says that they should not be compared."""

import json
from pathlib import Path

import fabricated
import pytest
from page_reader import Page

from casemate import report
from casemate.errors import CasemateError


def compared(folder: Path, *what: dict[str, object]) -> Page:
    runs = [
        fabricated.run_folder(folder / f"run{place}", **({"training": False, "curves": False} | each))  # type: ignore[arg-type]
        for place, each in enumerate(what)
    ]
    return Page(report.compare(runs, folder / "out" / "compare.html"))


def test_runs_that_share_everything_are_compared(tmp_path: Path) -> None:
    page = compared(tmp_path, {"curves": True, "model": "runs/natural", "verdicts": (0, 20, 0)}, {"curves": True})
    assert page.is_whole
    assert page.one("p", class_="facts") == "digits-sample[test] linf:0.3 20 images"
    assert "can be compared" in page.one("p", class_="finding")
    assert "run 1" in page.section("accuracy")
    assert "run 2" in page.section("accuracy")
    for place, model in enumerate(("runs/natural", "runs/robust")):
        summary = json.loads((tmp_path / f"run{place}" / "summary.json").read_text())
        row = f"{place + 1} {model}digits-sample[test], linf:0.320{summary['clean_accuracy']:.1%}"
        row += f"{summary['certified_accuracy']:.1%}{summary['attacked_accuracy']:.1%}"
        assert row in page.section("table")
        first = summary["attacks"][0]
        assert f"{first['broke']} of {first['tried']}{first['alone']} alone" in page.section("attacks")
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("other", "what", "values"),
    [
        ({"n": 30}, "the numbers of images", "20 images in run 1; 30 images in run 2"),
        ({"threat": "linf:0.1"}, "the threat models", "linf:0.3 in run 1; linf:0.1 in run 2"),
        ({"data_name": "folder:/x"}, "the data", "digits-sample[test] in run 1; folder:/x[test] in run 2"),
        ({"n": 30, "threat": "l2:1"}, "the threat models and the numbers of images", "l2:1 in run 2"),
    ],
)
def test_what_makes_runs_incomparable_is_said(tmp_path: Path, other: dict[str, object], what: str, values: str) -> None:
    page = compared(tmp_path, {}, other)
    assert page.one("p", class_="finding") == f"These runs are not comparable: {what} differ."
    assert values in page.one("ul", class_="details")


def test_other_images_of_the_same_name_are_noticed(tmp_path: Path) -> None:
    folders = [fabricated.run_folder(tmp_path / name, curves=False, training=False) for name in "ab"]
    described = json.loads((folders[1] / "run.json").read_text())["data"]
    fabricated.edit(folders[1] / "run.json", data=described | {"fingerprint": "0" * 64})
    page = Page(report.compare(folders, tmp_path / "compare.html"))
    assert "not comparable: the images differ" in page.one("p", class_="finding")


def test_other_budgets_are_said_and_an_attack_that_did_not_run_is_a_dash(tmp_path: Path) -> None:
    page = compared(tmp_path, {"stages": ("FGSM", "PGD")}, {"stages": ("FGSM",)})
    assert "did not run the same attacks" in page.one("p", class_="details")
    assert "alone–" in page.section("attacks")
    assert "did not run" not in compared(tmp_path / "same", {}, {}).text


def test_a_run_in_another_norm_or_without_a_sweep_is_not_drawn(tmp_path: Path) -> None:
    page = compared(tmp_path, {"curves": True}, {"curves": True, "threat": "l2:2", "eps": 2.0}, {})
    assert "Not drawn: runs 2, 3, without a sweep of eps in linf." in page.section("accuracy")
    assert "None of these runs swept eps." in compared(tmp_path / "none", {}).section("accuracy")


def test_names_from_files_cannot_become_markup(tmp_path: Path) -> None:
    page = compared(tmp_path, {"model": "<script>alert(1)</script>", "stages": ("<img src=x>",)}, {})
    assert not page.tags("script")
    assert not page.tags("img")
    assert "<script>alert(1)</script>" in page.text


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(CasemateError, match="nothing to compare"):
        report.compare([], tmp_path / "compare.html")
    with pytest.raises(CasemateError, match=r"run\.json is absent"):
        report.compare([tmp_path], tmp_path / "compare.html")
    folder = fabricated.run_folder(tmp_path / "run", curves=False, training=False)
    fabricated.edit(folder / "summary.json", verdicts={})
    with pytest.raises(CasemateError, match="is damaged"):
        report.compare([folder], tmp_path / "compare.html")
    assert not (tmp_path / "compare.html").exists()
