"""The pages in a real browser: nothing complains, nothing overflows, every picture is there."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fabricated
import numpy as np
import pytest
from PIL import Image

from casemate import report

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.page, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
RUNS: dict[str, dict[str, Any]] = {
    "full": {"n": 60, "verdicts": (4, 20, 6)},
    "names": {
        "model": "a/very/long/path/to/some/folder/with_a_file_of_models.py:the_function_that_makes_the_network" * 2,
        "classes": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        "stages": ("FGSM", "An attack with a name that is far longer than any that we would give to one ourselves"),
        "data_name": "folder:/a/folder/that/is/not/on/this/machine/and/has/a/long/name",
        "shape": (3, 32, 32),
        "threat": "linf:8/255",
        "eps": 8 / 255,
        "curves": False,
    },
    "bare": {"verdicts": (0, 0, 0), "curves": False, "training": False},
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    runs = [fabricated.run_folder(root / name, **what) for name, what in RUNS.items()]
    written = {run.name: report.write(run) for run in runs}
    return written | {"compared": report.compare(runs, root / "compare.html")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield opened
        opened.close()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1200])
@pytest.mark.parametrize("name", [*RUNS, "compared"])
def test_a_page_opens_cleanly(pages: dict[str, Path], browser: Any, name: str, width: int, colours: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=colours, offline=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.goto(pages[name].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    # Of each chart, one of the two drawings is seen, and its words use the page's font.
    assert page.evaluate("[...document.querySelectorAll('.chart')].every(c => c.clientHeight > 150)")
    seen = page.evaluate("[...document.querySelectorAll('.chart svg')].filter(s => s.clientWidth > 0).length")
    assert seen == page.evaluate("document.querySelectorAll('.chart').length")
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"), dtype=float)
    assert picture.std() > 5
    assert (np.median(picture) > 200) == (colours == "light")
    assert not complaints
    context.close()


def test_words_of_the_charts_do_not_run_into_each_other(pages: dict[str, Path], browser: Any) -> None:
    page = browser.new_page(viewport={"width": 380, "height": 900})
    page.goto(pages["full"].as_uri())
    overlapping = page.evaluate(
        """[...document.querySelectorAll('svg.bracket, .chart .narrow svg')].flatMap(svg => {
            const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
            return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
                p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 3 && q.top < p.bottom - 3
            ).map(([b]) => a + ' / ' + b));
        })"""
    )
    assert overlapping == []
    page.close()
