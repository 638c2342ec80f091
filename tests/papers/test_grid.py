"""The grid of attacks: every cell is what its own attack finds, white box or from another network."""

import polars as pl
import pytest
import torch
from grid_toys import network, toy_run
from paper_toys import keys, linear

from casemate import data
from casemate.attacks import PGD, Attack, Restarts, Transfer, evaluate
from casemate.gradients import Engine
from casemate.losses import margin
from casemate.papers import evaluation as evaluations
from casemate.papers.evaluation import Accuracy, percent
from casemate.papers.madry2018.grid import NONE, Handed, Line, Search, measured
from casemate.papers.networks import Variant
from casemate.threat import Linf

N = 60
PGD4 = PGD(n_steps=4, step_size=0.04)
LINES = (
    Line("attacks", "clean", "A", NONE, 98.8, None),
    Line("attacks", "PGD", "A", "A", 93.2, Search(PGD4)),
    Line("attacks", "PGD", "A", "A", None, Search(PGD4, 3), "a remark"),
    Line("attacks", "PGD", "A", "A'", 96.0, Search(PGD4)),
    Line("attacks", "CW", "A", "A'", 97.0, Search(PGD(n_steps=4, step_size=0.04, loss="margin"), until_fooled=True)),
)
A = Variant("mnist-pgd")
TARGETS, SOURCES = {"A": A}, {"A": A, "A'": Variant("mnist-pgd", copy=1)}


def directly(attack: Attack, seed: int = 0) -> int:
    """How many of the images the attacked toy gets right after `attack`."""
    digits = data.load("digits-sample", "test", limit=N)
    engine = Engine(network("mnist-pgd").model, precision="float32")
    outcome = evaluate(engine, digits.images, digits.labels, Linf(0.1), attack, seed=seed)
    return int(outcome.right_after.sum())


def grid(lines: tuple[Line, ...] = LINES, seed: int = 0) -> pl.DataFrame:
    run, _ = toy_run(seed=seed)
    return measured(lines, TARGETS, SOURCES, run, N)[0]


@pytest.mark.parametrize("seed", [0, 5])
def test_every_cell_is_a_direct_call_of_evaluate(seed: int) -> None:
    source = network("mnist-pgd-copy").model
    digits = data.load("digits-sample", "test", limit=N)
    clean = int((network("mnist-pgd").model(digits.images).argmax(dim=1) == digits.labels).sum())
    expected = [
        clean,
        directly(Restarts(PGD4, 1), seed),
        directly(Restarts(PGD4, 3), seed),
        directly(Restarts(Transfer(source, PGD4), 1), seed),
        directly(Restarts(Handed(source, PGD(n_steps=4, step_size=0.04, loss="margin")), 1), seed),
    ]
    frame = grid(seed=seed)
    assert frame["right"].to_list() == expected
    assert frame["n"].to_list() == [N] * 5
    # The toys are good enough, and the attacks strong enough, for the numbers to tell attacks apart.
    assert 0 < expected[2] <= expected[1] < expected[3] < clean


def test_a_line_keeps_what_it_is_and_what_was_published() -> None:
    frame = grid()
    assert frame["label"].to_list() == [
        "A: clean",
        "A: PGD 4 x 1",
        "A: PGD 4 x 3",
        "A: PGD 4 x 1 from A'",
        "A: CW 4 x 1 from A'",
    ]
    assert frame["published"].to_list() == [98.8, 93.2, None, 96.0, 97.0]
    assert frame["n_restarts"].to_list() == [None, 1, 3, 1, 1]
    assert frame["note"][2] == "a remark"
    for row in frame.iter_rows(named=True):
        assert row["low"] <= row["accuracy"] == row["right"] / N <= row["high"]


def test_the_same_search_from_the_same_network_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Attack] = []

    def counted(engine: Engine, x: torch.Tensor, y: torch.Tensor, threat: Linf, attack: Attack, *, seed: int) -> object:
        tried.append(attack)
        return evaluate(engine, x, y, threat, attack, seed=seed)

    monkeypatch.setattr(evaluations, "evaluate", counted)
    once = grid(LINES[1:2])
    twice = grid((*LINES[1:2], Line("transfer", "PGD", "A", "A", None, Search(PGD4))))
    assert len(tried) == 2
    assert twice["right"].to_list() == 2 * once["right"].to_list()
    grid(LINES[1:4])
    assert len(tried) == 5


def test_only_the_networks_of_the_lines_are_opened() -> None:
    run, asked = toy_run()
    _, networks = measured(LINES[:3], TARGETS, SOURCES, run, N)
    assert asked == [A]
    assert [network.name for network in networks] == ["mnist-pgd-small"]


def test_handed_examples_stop_where_the_source_is_fooled() -> None:
    """On a linear source each step moves its margin by at most the step times |w|_1; the first that is over 0 stays."""
    torch.manual_seed(0)
    weights = torch.randn(16)
    x = torch.rand(40, 1, 4, 4) * 0.2 + 0.4
    source, target = linear(weights), linear(weights + 0.3 * torch.randn(16))
    y = source(x).argmax(dim=1)
    attack = PGD(n_steps=10, step_size=0.02, loss="margin", random_start=False)
    threat = Linf(0.2)
    handed = Handed(source, attack)(target, x, y, threat, keys=keys(40))
    further = Transfer(source, attack)(target, x, y, threat, keys=keys(40))
    assert threat.contains(handed, x).all()
    right = target(x).argmax(dim=1) == y
    gained = margin(source(handed), y)
    assert (gained > 0)[right].any()
    assert (gained <= 0.02 * weights.abs().sum()).all()
    deeper = margin(source(further), y) > gained + 1e-6
    assert deeper[right & (gained > 0)].all()
    # Nothing to do where the target is wrong already.
    assert torch.equal(handed[~right], x[~right])


def test_percent_has_the_interval() -> None:
    assert percent(Accuracy(0, 10).columns()) == "0.0 (0.0 to 30.8)"
    assert percent(Accuracy(932, 1000).columns()) == "93.2 (91.5 to 94.7)"
