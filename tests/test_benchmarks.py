"""The programs of benchmarks/, as far as they go without the libraries they compare with."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from casemate import checkpoint, models

ROOT = Path(__file__).parents[1]
PROGRAMS = ("pgd_speed", "active_set", "training_speed")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_explains_itself(program, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    with pytest.raises(SystemExit) as stopped:
        _module(program).main()
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--n", "--threads", "--repeats", "--seed", "--json", "--output"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_missing_peer_is_one_sentence(program, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    threads = str(torch.get_num_threads())
    monkeypatch.setattr(sys, "argv", [program, "--threads", threads, "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        _module(program).main()
    assert stopped.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "torchattacks" in sentence
    assert "make bench" in sentence
    assert not list(tmp_path.iterdir())


def test_rounds_are_interleaved_and_each_begins_further_along():
    order = []
    contenders = {name: lambda name=name: order.append(name) for name in "abc"}
    found = _module("measure").interleaved(contenders, 3)
    assert "".join(order) == "abcbcacab"
    assert all(len(runs) == 3 for runs in found.values())


def test_nothing_breaks_the_unbreakable_network():
    contenders, networks = _module("contenders"), _module("networks")
    x = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    model, y = networks.unbreakable(0, x)
    search = contenders.Search(n_steps=3, step_size=0.3)
    x_adv = contenders.casemate(model, search)(x, y)
    assert (model(x_adv).argmax(1) == y).all()
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(leaf), y), leaf)
    assert (gradient.flatten(1).norm(dim=1) > 1e-12).all()


def test_a_comparison_without_peers_has_a_row_for_each_contender(monkeypatch):
    contenders, attack_speed, tables = _module("contenders"), _module("attack_speed"), _module("tables")
    monkeypatch.setattr(contenders, "PEERS", {"twin": contenders.bare})
    x = torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    model, y = _module("networks").unbreakable(0, x)
    found = attack_speed.compare(model, x, y, contenders.Search(n_steps=2), repeats=1, seed=0)
    names = [row["name"] for row in found["rows"]]
    assert names == ["bare", "bare, 100 at a time", "casemate", "twin"]
    assert found["rows"][0]["wall_multiple"] == 1
    assert all(row["attacked_accuracy"] == 1 and row["outside"] == 0 for row in found["rows"])
    facts = {"command": "", "date": "", "machine": {"processor": "", "cores": 1, "instructions": ""}, "versions": {}}
    facts |= {"threads": 1, "seed": 0, "repeats": 1, "seconds": 1, "load_before": 0.0, "network": ""}
    table = tables.attack_table({**facts, **found})
    assert "| casemate |" in table
    assert "| twin |" in table


def test_a_narrow_network_filled_up_to_network_a_gives_the_same_answers(tmp_path):
    narrow = models.build("madry-mnist", scale=2).eval()
    checkpoint.save(tmp_path, narrow, {"architecture": "madry-mnist", "arguments": {"scale": 2}})
    whole = _module("networks").opened(tmp_path, seed=0)
    assert whole.get_parameter("fc1.weight").shape == (1024, 3136)
    x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole(x), narrow(x), rtol=1e-4, atol=1e-4)
