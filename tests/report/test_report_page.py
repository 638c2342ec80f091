"""The page of one run says what the run folder says, and nothing else gets onto or out of it."""

import json
import re
from pathlib import Path

import fabricated
import matplotlib
import polars as pl
import pytest
from page_reader import Page

from casemate import report
from casemate.errors import CasemateError
from casemate.report import record

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>$\\frac{1}{2}$'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with everything: all verdicts, curves, a training log."""
    folder = tmp_path_factory.mktemp("full") / "run"
    fabricated.run_folder(folder, n=60, verdicts=(4, 20, 6))
    report.write(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(run / "report.html")


def quick(folder: Path, **what: object) -> Page:
    """The page of a run without charts that take long."""
    fabricated.run_folder(folder, **({"curves": False, "training": False} | what))  # type: ignore[arg-type]
    return Page(report.write(folder))


def test_the_page_is_whole_and_says_the_numbers_of_the_summary(run: Path, page: Page) -> None:
    summary = json.loads((run / "summary.json").read_text())
    low, high = summary["robust_accuracy_interval"]
    assert page.is_whole
    assert page.one("h1") == summary["model"]
    assert page.one("p", class_="facts") == "digits-sample[test] linf:0.3 60 images seed 0 61.2 s"
    assert page.one("p", class_="finding") == "No failure found with this budget for 36 of 60 images (60.0%)."
    bar = page.one("svg", class_="bracket")
    assert f"certified accuracy {summary['certified_accuracy']:.1%}" in bar
    assert f"attacked accuracy {summary['attacked_accuracy']:.1%}" in bar
    assert f"robust accuracy {low:.1%} to {high:.1%}" in bar
    key = page.one("table", class_="key")
    for verdict, images in summary["verdicts"].items():
        assert f"{verdict}{images}{images / 60:.1%}" in key


def test_the_page_never_promises_security(page: Page) -> None:
    assert not re.search(r"\bsecur|\bsafe", page.text.lower())


@pytest.mark.parametrize("verdicts", [(4, 20, 6), (0, 20, 0), (0, 0, 20)])
def test_the_bar_has_the_shares_and_the_whisker_the_interval(tmp_path: Path, verdicts: tuple[int, int, int]) -> None:
    n = max(20, sum(verdicts) + 7 * (verdicts == (4, 20, 6)))
    page = quick(tmp_path / "run", n=n, verdicts=verdicts)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    start = 0.0
    shown = {rect["class"]: rect for rect in page.bar()}
    for verdict in ("certified", "unresolved", "broken", "misclassified"):
        share = 100 * summary["verdicts"][verdict] / n
        assert (verdict in shown) == (share > 0)
        if share:
            assert float(shown[verdict]["x"].rstrip("%")) == pytest.approx(start)
            assert float(shown[verdict]["width"].rstrip("%")) == pytest.approx(share)
        start += share
    assert start == pytest.approx(100)
    whisker = page.tags("line")[2]  # after the two marks of the accuracies
    assert [float(whisker[x].rstrip("%")) / 100 for x in ("x1", "x2")] == pytest.approx(
        summary["robust_accuracy_interval"]
    )


def test_the_table_of_attacks_repeats_the_summary(run: Path, page: Page) -> None:
    summary = json.loads((run / "summary.json").read_text())
    verdicts = pl.read_parquet(run / "verdicts" / "*.parquet")
    rows = page.one("table", class_="stages")
    for attack in summary["attacks"]:
        breaks = sum(attack["name"] in names for names in verdicts["broken_by"])
        cells = f"{attack['name']}{attack['tried']}{attack['broke']}{breaks}{attack['alone']}{attack['seconds']:.1f}"
        assert cells in rows


def test_what_a_near_attack_runs_on_is_said_where_there_is_one(tmp_path: Path, page: Page) -> None:
    said = "an attack within some share runs on those alone"
    assert said not in page.text
    assert said in quick(tmp_path, stages=("PGD", "Square-5000 within 12%")).text


def test_every_setting_version_seed_hash_and_command_is_printed(run: Path, page: Page) -> None:
    manifest = json.loads((run / "run.json").read_text())
    settings = page.section("settings")
    for value in ("casemate_version", "torch_version", "python_version", "platform", "created", "precision", "preset"):
        assert manifest[value] in settings
    assert manifest["model"]["sha256"] in settings
    assert manifest["data"]["fingerprint"] in settings
    assert "PGD (n_steps 20, step_size 0.01, loss cross-entropy, random_start true, target_rank none)" in settings
    assert "recipe.objective.step_size0.1" in settings
    assert page.section("verify").startswith("Check it yourself")
    assert "casemate check runs/run" in page.all("code")
    assert manifest["command"] in page.all("code")


def test_a_resumed_run_shows_every_command_line(tmp_path: Path) -> None:
    fabricated.run_folder(tmp_path / "run", curves=False, training=False)
    fabricated.edit(tmp_path / "run" / "run.json", command_lines=["casemate audit m", "casemate audit m --resume"])
    assert "casemate audit m casemate audit m --resume" in Page(report.write(tmp_path / "run")).all("code")


def test_what_comes_from_files_cannot_become_markup(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fabricated.run_folder(
        folder, model=HOSTILE, classes=(HOSTILE, *"123456789"), stages=(HOSTILE, "PGD"), training=False
    )
    fabricated.edit(
        folder / "run.json",
        command=HOSTILE,
        model={"spec": HOSTILE, "sha256": HOSTILE, "card": {HOSTILE: [HOSTILE]}},
        data=json.loads((folder / "run.json").read_text())["data"] | {"name": HOSTILE},
    )
    symptom = {"id": HOSTILE, "status": "warn", "statistic": 1, "meaning": HOSTILE, "remedy": HOSTILE}
    fabricated.edit(folder / "summary.json", data=HOSTILE, run=HOSTILE, symptoms=[symptom])
    page = Page(report.write(folder))
    assert page.is_whole
    assert not page.tags("script")
    assert all(not name.startswith("on") for _, attributes, _ in page.elements for name in attributes)
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.tags("img"))
    assert page.one("h1") == HOSTILE
    assert len(page.all("h1")) == 1


def test_the_page_loads_nothing(page: Page) -> None:
    for _, attributes, _ in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert re.match(r"data:image/png|#|$", attributes.get(name, ""))
    assert not {"link", "script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _, _ in page.elements}
    assert not re.search(r"@import|@font-face|url\((?!#)|https?://", page.source)
    policy = next(meta["content"] for meta in page.tags("meta") if "http-equiv" in meta)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_ids_are_unique_and_every_reference_has_its_target(page: Page) -> None:
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"|aria-labelledby="([^"]+)"', page.source))
    assert {name for names in wanted for name in names if name} <= set(ids)


def test_every_figure_has_words_for_those_who_do_not_see_it(page: Page) -> None:
    assert all(image["alt"] for image in page.tags("img"))
    charts = [a for tag, a, _ in page.elements if a.get("role") == "img"]
    assert len(charts) == 7
    assert all(len(chart["aria-label"]) > 20 for chart in charts)
    hidden = [a for a in page.tags("svg") if a.get("aria-hidden") != "true" and a.get("role") != "img"]
    assert not hidden
    assert len(page.tags("table")) == len(page.tags("caption"))


def test_equal_run_folders_give_equal_bytes_whatever_the_user_set(run: Path, page: Page) -> None:
    with matplotlib.rc_context({"svg.fonttype": "path", "font.size": 30, "svg.hashsalt": None}):
        report.write(run)
        assert matplotlib.rcParams["font.size"] == 30
    assert (run / "report.html").read_text() == page.source


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            {"verdicts": (2, 0, 0)},
            {
                "accuracy": "This run did not sweep eps.",
                "attacks": "Nothing was broken, so the bars are empty.",
                "gallery": "No image was broken with this budget.",
                "loss": "This run kept no loss paths.",
                "training": "The model came without a training log.",
                "confusion": "No image was broken",
            },
        ),
        (
            {"verdicts": (20, 0, 0), "stages": ()},
            {"attacks": "No attack ran.", "unresolved": "No image is unresolved."},
        ),
    ],
)
def test_an_absent_part_is_said_to_be_absent(tmp_path: Path, what: dict[str, object], said: dict[str, str]) -> None:
    page = quick(tmp_path / "run", **what)
    for section, words in said.items():
        assert words in page.section(section)


@pytest.mark.parametrize(
    ("n", "verdicts", "finding"),
    [
        (1, (0, 0, 0), "No failure found with this budget for 1 of 1 image (100.0%)."),
        (1, (0, 1, 0), "A failure was found for the one image."),
        (20, (1, 19, 0), "A failure was found for all 20 images."),
    ],
)
def test_the_finding_at_the_ends(tmp_path: Path, n: int, verdicts: tuple[int, int, int], finding: str) -> None:
    assert quick(tmp_path / "run", n=n, verdicts=verdicts).one("p", class_="finding") == finding


@pytest.mark.parametrize(
    "what",
    [
        {"shape": (3, 12, 12), "classes": ("cat", "dog"), "threat": "linf:8/255", "eps": 8 / 255},
        {"shape": (1, 40, 20), "classes": tuple(f"class {i}" for i in range(1000))},
        {"shape": (2, 8, 8), "classes": tuple("abc"), "threat": "l2:1.5"},
    ],
)
def test_other_shapes_and_numbers_of_classes(tmp_path: Path, what: dict[str, object]) -> None:
    page = quick(tmp_path / "run", data_name="folder:/nowhere", n=50, verdicts=(5, 30, 0), **what)
    assert page.is_whole
    assert "The clean images are not shown" in page.section("gallery")
    assert len(page.tags("img")) == 12  # the adversarial images alone
    classes = what["classes"]
    assert isinstance(classes, tuple)
    if len(classes) > 12:
        assert len(page.one("table", class_="pairs").split("class")) == 1 + 2 * 15 + 1  # pairs, and the caption


def test_a_page_of_10_000_images_stays_small(tmp_path: Path) -> None:
    what = {"data_name": "folder:/nowhere", "shape": (1, 28, 28), "n": 10_000, "verdicts": (150, 900, 0)}
    folder = fabricated.run_folder(tmp_path / "run", **what)  # type: ignore[arg-type]
    page = report.write(folder)
    assert page.stat().st_size < 1_500_000
    assert "10,000 images" in Page(page).text


def test_no_data_set_is_fetched_for_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricated.run_folder(tmp_path / "run", curves=False, training=False)
    nowhere = [description for description in record.data.describe() if description.name == "mnist"]
    nowhere = [type(nowhere[0])("digits-sample", 1, 1, 10, (1, 28, 28), None, "download")]
    monkeypatch.setattr(record.data, "describe", lambda: nowhere)
    monkeypatch.setattr(record.data, "load", lambda *_, **__: pytest.fail("the page loads a data set"))
    page = Page(report.write(tmp_path / "run"))
    assert "(digits-sample is not on this machine)" in page.section("gallery")


def test_other_data_of_the_same_name_are_not_shown_as_the_audited_ones(tmp_path: Path) -> None:
    folder = fabricated.run_folder(tmp_path / "run", curves=False, training=False)
    described = json.loads((folder / "run.json").read_text())["data"]
    fabricated.edit(folder / "run.json", data=described | {"fingerprint": "0" * 64})
    assert "is not the data that was audited" in Page(report.write(folder)).section("gallery")


def test_symptoms_are_shown_where_there_are_any(tmp_path: Path, page: Page) -> None:
    assert not page.all("section", id="symptoms")
    folder = fabricated.run_folder(tmp_path / "run", curves=False, training=False)
    symptom = {
        "id": "flat loss",
        "status": "warn",
        "statistic": 0.25,
        "meaning": "the loss is flat",
        "remedy": "use DLR",
    }
    fabricated.edit(folder / "summary.json", symptoms=[symptom])
    assert "flat loss warn 0.25 the loss is flat; remedy: use DLR" in re.sub(
        r"(flat loss|warn|0\.25)", r"\1 ", Page(report.write(folder)).section("symptoms")
    )


def test_remedies_and_ways_stand_with_the_symptoms(tmp_path: Path) -> None:
    folder = fabricated.run_folder(tmp_path / "run", curves=False, training=False)
    symptom = {"id": "G7", "status": "fail", "statistic": 1.0, "meaning": "it is zero", "remedy": "mend it"}
    ways = [
        {"name": "its own gradient", "n": 32, "broke": 1, "margin": 2.5},
        {"name": "another", "n": 32, "broke": 0, "margin": None},
    ]
    fabricated.edit(
        folder / "summary.json",
        symptoms=[symptom | {"status": "pass"}],
        remedies=[{"did": "attacks follow another gradient", "symptoms": [symptom]}],
        ways=ways,
    )
    section = Page(report.write(folder)).section("symptoms")
    for said in ("attacks follow another gradient", "G7: it is zero", "its own gradient", "2.5", "there is none"):
        assert said in section


def test_steps_and_slopes_are_shown_where_they_were_measured(tmp_path: Path, page: Page) -> None:
    assert "PGD-100 on the margin" in page.section("steps")
    folder = fabricated.run_folder(tmp_path / "run", curves=False, training=False)
    assert not Page(report.write(folder)).all("section", id="steps")


def test_an_unfinished_run_has_no_page(tmp_path: Path) -> None:
    folder = fabricated.run_folder(tmp_path / "run", curves=False, training=False)
    (folder / "summary.json").unlink()
    with pytest.raises(CasemateError, match="is not finished: resume it"):
        report.write(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("summary.json", {"verdicts": {}}),
        ("summary.json", {"n": 0}),
        ("summary.json", {"attacks": [{"name": "FGSM"}]}),
        ("run.json", {"data": {"name": "digits-sample"}}),
        (
            "curves.json",
            {"accuracy_against_eps": {"n": 3, "eps": [0.1], "interval": [[0, 1]], "attacked_accuracy": []}},
        ),
    ],
)
def test_a_damaged_run_is_one_sentence(tmp_path: Path, name: str, change: dict[str, object]) -> None:
    folder = fabricated.run_folder(tmp_path / "run", training=False)
    fabricated.edit(folder / name, **change)
    with pytest.raises(CasemateError, match="is damaged .*: make it again") as caught:
        report.write(folder)
    assert "\n" not in str(caught.value)


def test_a_training_log_cut_off_by_a_kill_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = fabricated.run_folder(tmp_path / "run", curves=False)
    log = folder / "training.jsonl"
    log.write_text(log.read_text()[:-20])
    page = Page(report.write(folder))
    assert "held-out accuracy" in page.section("training")
