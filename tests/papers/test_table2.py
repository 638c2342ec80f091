"""Table 2 and the tables of transfers on CIFAR-10: the paper's numbers, and every pair of networks once."""

from itertools import product

import polars as pl
import pytest
from grid_toys import toy_run

from casemate.papers.item import Outcome, Setting
from casemate.papers.madry2018 import table2
from casemate.papers.madry2018.grid import NONE
from casemate.papers.networks import Variant

PRINTED = {
    "A: clean": 87.3,
    "A: FGSM": 56.1,
    "A: PGD 7 x 1": 50.0,
    "A: PGD 20 x 1": 45.8,
    "A: CW 30 x 1": 46.8,
    "A: FGSM from A'": 67.0,
    "A: PGD 7 x 1 from A'": 64.2,
    "A: CW 30 x 1 from A'": 78.7,
    "A: FGSM from A_nat": 85.6,
    "A: PGD 7 x 1 from A_nat": 86.0,
}
# FGSM / PGD-7; rows are targets and columns sources, simple networks first.
MOVED = """
32.9/6.6  74.0/71.6 73.7/71.8 27.6/1.4  71.8/51.4 76.6/75.6
64.2/66.3 90.7/40.3 60.9/58.4 61.5/65.4 90.2/26.8 67.3/66.2
77.1/78.1 78.1/78.2 60.2/57.7 77.0/77.9 77.9/78.1 66.3/65.2
34.9/10.9 78.7/79.6 80.2/79.1 21.3/0.0  75.8/51.3 80.6/79.7
64.5/67.6 93.6/51.7 69.1/67.4 53.7/56.5 92.2/0.0  72.8/71.6
85.8/86.4 86.6/86.8 73.3/72.1 85.6/86.0 86.2/86.3 67.0/64.2
"""
SIMPLE = ["simple natural", "simple FGSM", "simple PGD"]
WIDE = ["wide natural", "wide FGSM", "wide PGD"]


@pytest.fixture(scope="module")
def made() -> dict[Setting, tuple[Outcome, list[Variant]]]:
    """What the item comes to on 16 images in each setting, and the networks it asked for."""
    found: dict[Setting, tuple[Outcome, list[Variant]]] = {}
    with pytest.MonkeyPatch.context() as patched:
        for setting in ("small", "full"):
            patched.setitem(table2.N_IMAGES, setting, 16)
            run, asked = toy_run(setting)
            found[setting] = table2.make(run), asked
    return found


def test_the_published_numbers_are_those_of_the_paper() -> None:
    assert {line.label: line.published for line in table2.ATTACKS} == PRINTED
    found = [
        [tuple(float(value) for value in cell.split("/")) for cell in line.split()]
        for line in MOVED.strip().splitlines()
    ]
    names = SIMPLE + WIDE
    assert {
        (target, source): cell
        for target, row in zip(names, found, strict=True)
        for source, cell in zip(names, row, strict=True)
    } == table2.TRANSFERS


def test_the_searches_are_those_of_the_paper() -> None:
    for line in table2.ATTACKS:
        if line.search is None:
            assert (line.method, line.source) == ("clean", NONE)
            continue
        attack = line.search.attack
        assert attack.step_size == (8 / 255 if line.method == "FGSM" else 2 / 255)
        assert attack.random_start == (line.method != "FGSM")
        assert attack.loss == ("margin" if line.method == "CW" else "cross-entropy")
        assert line.search.until_fooled == (line.method == "CW" and line.source != "A")


@pytest.mark.parametrize(("setting", "names"), [("small", SIMPLE), ("full", SIMPLE + WIDE)])
def test_every_pair_of_networks_stands_in_it_once(
    setting: Setting, names: list[str], made: dict[Setting, tuple[Outcome, list[Variant]]]
) -> None:
    outcome, asked = made[setting]
    frame = outcome.data["accuracies"]
    moved = frame.filter(pl.col("part") == "transfer")
    assert sorted(moved.select("target", "source", "method").rows()) == sorted(
        product(names, [f"{name}'" for name in names], ["FGSM", "PGD"])
    )
    for row in moved.iter_rows(named=True):
        assert (
            row["published"] == table2.TRANSFERS[row["target"], row["source"].removesuffix("'")][row["method"] == "PGD"]
        )
    # A and its copies are among the networks of the transfers, so each is opened once.
    assert len(asked) == len(set(asked)) == 2 * len(names)
    claims = [row for row in outcome.rows if "transferability" in row.item]
    assert [row.published for row in claims] == (
        ["6.6, 57.7"] if setting == "small" else ["6.6, 57.7", "0.0, 64.2", "57.7, 64.2"]
    )


def test_the_table_is_about_the_largest_network_of_the_setting(
    made: dict[Setting, tuple[Outcome, list[Variant]]],
) -> None:
    outcome, _ = made["full"]
    by_label = {(row["part"], row["label"]): row["right"] for row in outcome.data["accuracies"].iter_rows(named=True)}
    for method in ("FGSM", "PGD 7 x 1"):
        assert by_label["attacks", f"A: {method} from A'"] == by_label["transfer", f"wide PGD: {method} from wide PGD'"]
        assert (
            by_label["attacks", f"A: {method} from A_nat"]
            == by_label["transfer", f"wide PGD: {method} from wide natural'"]
        )


def test_the_small_setting_says_what_stands_in(made: dict[Setting, tuple[Outcome, list[Variant]]]) -> None:
    for outcome, _ in made.values():
        texts = " ".join(
            text.get_text() for text in outcome.figures["cifar10"].findobj(lambda artist: hasattr(artist, "get_text"))
        ).replace("\n", " ")
        small = "SMALL SETTING" in texts
        assert ("three convolutions in the place of" in texts) == small
        assert any("three convolutions" in row.ours for row in outcome.rows) == small
