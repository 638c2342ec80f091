"""What the making of an item leaves behind: whole files, and a record that repeats it."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import polars as pl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from paper_toys import write_recipes
from PIL import Image

from casemate import checkpoint, files
from casemate.errors import CasemateError
from casemate.papers import figures
from casemate.papers.item import Item, Outcome, Paper, Row, Run
from casemate.papers.madry2018.items import MADRY2018
from casemate.papers.reproduce import PAPERS, find_item, find_paper, reproduce

FRAME = pl.DataFrame({"start": [0, 1], "loss": [0.5, 2.0]})


def line(figure: Figure) -> None:
    figure.subplots().plot(FRAME["start"].to_numpy(), FRAME["loss"].to_numpy())


def made_up(run: Run) -> Outcome:
    figure = figures.draw(line, width=4, height=3, title="losses", footer=figures.footer(run, "n = 2", ()))
    run.progress(1, 1, "drawing")
    return Outcome({"losses": figure}, {"losses": FRAME}, (Row("the loss", "1.0", "1.25", "of 2"),), ())


def paper_of(make: Any, recipes: Path = Path("none")) -> Paper:
    item = Item("toy1", "a line", "nowhere", {"small": "a second", "full": "a year"}, make)
    return Paper("toys2020", "Toys", recipes, (item,))


def test_figures_data_and_record_are_written_whole(tmp_path: Path) -> None:
    paper = paper_of(made_up)
    told = []
    made = reproduce(
        paper,
        paper.items[0],
        out=tmp_path,
        seed=3,
        command="casemate reproduce toys2020 toy1",
        progress=lambda done, total, note: told.append((done, total, note)),
    )
    assert made.folder == tmp_path / "toys2020" / "toy1-small"
    assert {path.name for path in made.folder.iterdir()} == {"losses.png", "losses.svg", "losses.parquet", "toy1.json"}
    assert told == [(1, 1, "drawing")]
    record = json.loads((made.folder / "toy1.json").read_text())
    assert record == made.record
    assert record["files"] == ["losses.png", "losses.svg", "losses.parquet"]
    assert record["rows"] == [{"item": "the loss", "published": "1.0", "ours": "1.25", "note": "of 2"}]
    assert (record["setting"], record["seed"]) == ("small", 3)
    assert record["command"] == "casemate reproduce toys2020 toy1"
    assert record["seconds"] >= 0
    assert record["cpu_seconds"] >= 0
    assert {"torch", "casemate", "python"} <= set(record["versions"])
    assert record["machine"]["cores"] >= 1
    assert record["date"].endswith("+00:00")
    image = Image.open(made.folder / "losses.png")
    assert image.size == (4 * figures.DPI, 3 * figures.DPI)
    assert min(image.info["dpi"]) >= 149.9
    assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    assert (made.folder / "losses.svg").read_text().rstrip().endswith("</svg>")
    assert pl.read_parquet(made.folder / "losses.parquet").equals(FRAME)


def test_the_networks_of_an_item_are_in_its_record(tmp_path: Path) -> None:
    def make(run: Run) -> Outcome:
        return Outcome({}, {}, (), (run.network("mnist-natural"),))

    paper = paper_of(make, write_recipes(tmp_path / "recipes"))
    first = reproduce(paper, paper.items[0], out=tmp_path)
    (network,) = first.record["networks"]
    assert network["trained_now"] is True
    assert network["folder"] == str(tmp_path / "toys2020" / "networks" / "mnist-natural-small-seed0")
    assert network["recipe"]["seed"] == 0
    assert network["steps"] == 60
    assert first.record["seconds"] >= network["seconds"]
    (again,) = reproduce(paper, paper.items[0], out=tmp_path).record["networks"]
    assert again == {**network, "trained_now": False}
    coarse = reproduce(paper, paper.items[0], out=tmp_path / "coarse", precision="bfloat16").record["networks"][0]
    assert checkpoint.load(Path(coarse["folder"]))[1]["search_precision"] == "bfloat16"
    elsewhere = reproduce(
        paper, paper.items[0], out=tmp_path / "other", networks=tmp_path / "toys2020" / "networks", setting="full"
    )
    assert elsewhere.folder == tmp_path / "other" / "toys2020" / "toy1-full"
    assert elsewhere.record["networks"][0]["name"] == "mnist-natural-full"


def test_where_the_disk_is_full_there_is_no_record_of_files_of_two_makings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = paper_of(made_up)
    made = reproduce(paper, paper.items[0], out=tmp_path)
    write_bytes = files.write_bytes

    def full(path: Path, content: bytes) -> None:
        if path.suffix == ".parquet":
            raise CasemateError("cannot write: no space left on device")
        write_bytes(path, content)

    monkeypatch.setattr(files, "write_bytes", full)
    with pytest.raises(CasemateError, match="no space"):
        reproduce(paper, paper.items[0], out=tmp_path, seed=1)
    assert not (made.folder / "toy1.json").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    def make(run: Run) -> Outcome:
        raise AssertionError("made in spite of it")

    (tmp_path / "toys2020").write_text("a file in the way")
    paper = paper_of(make)
    with pytest.raises(CasemateError, match="toys2020"):
        reproduce(paper, paper.items[0], out=tmp_path)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(CasemateError, match=", ".join(PAPERS)):
        find_paper("madry2019")
    assert find_paper("madry2018") is MADRY2018
    with pytest.raises(CasemateError, match="known are figure1, figure2"):
        find_item(MADRY2018, "figure99")
    assert find_item(MADRY2018, "figure2").name == "figure2"


def test_every_item_says_what_it_is_and_takes() -> None:
    names = [item.name for item in MADRY2018.items]
    assert len(set(names)) == len(names)
    for item in MADRY2018.items:
        assert item.title
        assert item.where
        assert set(item.times) == {"small", "full"}


def test_the_same_figure_gives_the_same_bytes_whatever_the_users_settings() -> None:
    def drawn() -> tuple[bytes, bytes]:
        figure = figures.draw(line, width=4, height=3, title="a", footer="b")
        return figures.png(figure), figures.svg(figure)

    plain = drawn()
    with matplotlib.rc_context({"lines.linewidth": 9.0, "figure.facecolor": "black", "font.size": 30.0}):
        assert drawn() == plain
        assert matplotlib.rcParams["font.size"] == 30.0


def test_the_footer_tells_the_two_settings_apart() -> None:
    run = Run("small", 4, lambda name: None)  # type: ignore[arg-type,return-value]
    full = Run("full", 4, lambda name: None)  # type: ignore[arg-type,return-value]
    assert "SMALL SETTING" in figures.footer(run, "n = 3", ())
    assert "seed 4" in figures.footer(run, "n = 3", ())
    assert "SMALL" not in figures.footer(full, "n = 3", ())


def test_a_long_footer_stays_on_the_figure() -> None:
    figure = figures.draw(line, width=5, height=3, title="t", footer="word " * 80)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (text,) = [text for text in figure.findobj(Text) if text.get_text().startswith("word")]
    box = text.get_window_extent(canvas.get_renderer())
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert 0 <= box.y0 < box.y1 < figure.axes[0].get_window_extent(canvas.get_renderer()).y0
