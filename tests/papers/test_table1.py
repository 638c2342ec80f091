"""Table 1: its lines are the paper's, its searches what they are called, and every transfer stands in it once."""

from dataclasses import replace
from itertools import product

import pytest
from grid_toys import toy_run

from casemate.papers.madry2018 import table1
from casemate.papers.madry2018.grid import NONE, Line, Search

# Method, steps, restarts and source of every line as the paper prints it; FGSM and one CW+ have no steps there.
PRINTED = [
    ("clean", None, None, NONE, 98.8),
    ("FGSM", 1, 1, "A", 95.6),
    ("PGD", 40, 1, "A", 93.2),
    ("PGD", 100, 1, "A", 91.8),
    ("PGD", 40, 20, "A", 90.4),
    ("PGD", 100, 20, "A", 89.3),
    ("targeted", 40, 1, "A", 92.7),
    ("CW", 40, 1, "A", 94.0),
    ("CW+", 40, 1, "A", 93.9),
    ("FGSM", 1, 1, "A'", 96.8),
    ("PGD", 40, 1, "A'", 96.0),
    ("PGD", 100, 20, "A'", 95.7),
    ("CW", 40, 1, "A'", 97.0),
    ("CW+", 40, 1, "A'", 96.4),
    ("FGSM", 1, 1, "B", 95.4),
    ("PGD", 40, 1, "B", 96.4),
    ("CW+", 1, 1, "B", 95.7),
]


def effort(search: Search | None) -> tuple[int | None, int | None]:
    return (search.attack.n_steps, search.n_restarts) if search else (None, None)


def test_the_published_lines_are_those_of_the_paper() -> None:
    found = [
        (line.method, *effort(line.search), line.source, line.published)
        for line in table1.ATTACKS
        if line.target == "A" and line.published is not None
    ]
    assert found == PRINTED
    others = [(line.label, line.published) for line in table1.ATTACKS if line.target != "A"]
    assert others == [("A_nat: clean", 99.2), ("A_nat: FGSM", 6.4)]


@pytest.mark.parametrize("line", [line for line in table1.LINES if line.search], ids=lambda line: line.label)
def test_a_search_is_what_it_is_called(line: Line) -> None:
    assert line.search is not None
    attack = line.search.attack
    single = attack.n_steps == 1
    assert attack.step_size == (0.3 if single else 0.01)
    assert attack.random_start != single
    assert attack.loss == ("margin" if line.method.startswith("CW") else "cross-entropy")
    assert attack.target_rank == (1 if line.method == "targeted" else None)
    # Without confidence Carlini and Wagner's loss goes no further than the source's boundary.
    assert line.search.until_fooled == (line.method == "CW" and line.source != "A")


def test_cells_from_other_networks_are_what_transfer_finds() -> None:
    """Their values against direct calls are in test_grid; here, that every name is another network."""
    assert set(table1.SOURCES) >= {line.source for line in table1.LINES} - {NONE}
    assert set(table1.TARGETS) >= {line.target for line in table1.LINES}
    for line in table1.LINES:
        if line.source == NONE:
            continue
        own = table1.TARGETS[line.target] == table1.SOURCES[line.source]
        assert own == (line.part == "attacks" and line.source == line.target)


def test_every_transfer_stands_in_it_once() -> None:
    ways = ["natural", "FGSM", "PGD"]
    moved = [(line.target, line.source, line.method) for line in table1.LINES if line.part == "transfer"]
    assert sorted(moved) == sorted(product(ways, [f"{way}'" for way in ways], ["FGSM", "PGD"]))
    printed = {
        (line.target, line.source, line.method): line.published
        for line in table1.LINES
        if line.part == "transfer" and line.published is not None
    }
    assert printed == {
        ("natural", "natural'", "FGSM"): 41.9,
        ("natural", "natural'", "PGD"): 26.0,
        ("FGSM", "FGSM'", "FGSM"): 62.0,
        ("FGSM", "FGSM'", "PGD"): 54.1,
        ("PGD", "PGD'", "FGSM"): 96.8,
        ("PGD", "PGD'", "PGD"): 96.0,
    }


def shortened(line: Line) -> Line:
    """A tenth of the steps and restarts, where there are so many."""
    if line.search is None:
        return line
    attack = replace(line.search.attack, n_steps=max(line.search.attack.n_steps // 10, 1))
    return replace(line, search=replace(line.search, attack=attack, n_restarts=max(line.search.n_restarts // 10, 1)))


def test_the_item_has_a_figure_its_data_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table1.N_IMAGES, "small", 20)
    monkeypatch.setattr(table1, "LINES", tuple(shortened(line) for line in table1.LINES))
    run, asked = toy_run()
    outcome = table1.make(run)
    assert len(asked) == len(set(asked)) == 7
    frame = outcome.data["accuracies"]
    assert len(frame) == 21 + 18
    # Two lines that are one search agree: PGD on A from its copy stands in the table and among the transfers.
    by_label = {(row["part"], row["label"]): row["right"] for row in frame.iter_rows(named=True)}
    assert by_label["attacks", "A: PGD 4 x 1 from A'"] == by_label["transfer", "PGD: PGD 4 x 1 from PGD'"]
    assert by_label["attacks", "A: CW 4 x 1"] == by_label["attacks", "A: CW+ 4 x 1"]
    assert by_label["attacks", "A: PGD 10 x 2"] <= by_label["attacks", "A: PGD 10 x 1"]
    rows = {row.item: row for row in outcome.rows}
    assert len(rows) == len(outcome.rows) == 21 + 9 + 1
    assert rows["MNIST, A: PGD 10 x 2"].published == "89.3"
    assert rows["MNIST, A: FGSM from A_nat"].published == "not printed"
    assert "n = 20" in rows["MNIST, A: targeted 4 x 1"].note
    assert rows["MNIST: on natural from natural', FGSM / PGD"].published == "41.9 / 26.0"
    texts = " ".join(
        text.get_text() for text in outcome.figures["mnist"].findobj(lambda artist: hasattr(artist, "get_text"))
    )
    assert "SMALL SETTING" in texts
    assert "n = first 20 test images" in texts
    assert "A: PGD 4 x 2" in texts
    assert "(54.1)" in texts
