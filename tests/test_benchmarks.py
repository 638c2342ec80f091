"""The programs of benchmarks/, as far as they go without the libraries they compare with."""

import importlib
import itertools
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from casemate import Linf, checkpoint, models
from casemate.audit import audit, presets
from casemate.data import Dataset, load
from casemate.training import guard
from casemate.training import recipe as recipes
from casemate.training.recipe import ModelSettings, Recipe
from casemate.training.train import train

ROOT = Path(__file__).parents[1]
PROGRAMS = ("pgd_speed", "active_set", "training_speed", "speed_run", "autoattack", "bounds_speed", "interval_step")
ART = ("art.defences.trainer", "adversarial-robustness-toolbox")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def _toy(**entries: Any) -> Recipe:
    """Five steps of a small network on 500 digits."""
    small = {"model": ModelSettings(name="small-cnn", arguments={"width": 2}), "epochs": 1, "hold_out": 3500}
    return recipes.find("demo-natural").model_copy(update=small | entries)


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_explains_itself(program, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    with pytest.raises(SystemExit) as stopped:
        _module(program).main()
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--n", "--threads", "--repeats", "--seed", "--json", "--output"))


@pytest.mark.parametrize(
    ("program", "module", "package"),
    [
        *((program, "torchattacks", "torchattacks") for program in PROGRAMS[:3]),
        ("speed_run", *ART),
        ("autoattack", "pyautoattack", "pyautoattack"),
        ("bounds_speed", "auto_LiRPA", "auto_LiRPA"),
    ],
)
def test_a_missing_peer_is_one_sentence(program, module, package, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    threads = str(torch.get_num_threads())
    options = {"autoattack": ["--model", "nowhere"], "bounds_speed": ["--networks", "nowhere"]}.get(program, [])
    monkeypatch.setattr(sys, "argv", [program, *options, "--threads", threads, "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        _module(program).main()
    assert stopped.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert package in sentence
    assert ("pip install" if program == "bounds_speed" else "make bench") in sentence
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


def test_the_judge_finds_what_an_audit_finds(monkeypatch, tmp_path):
    # As it is, it takes 2,400 gradients of every image.
    monkeypatch.setitem(presets.PRESETS, "standard", presets.quick)
    model = models.build("small-cnn", width=8).eval()
    x = 0.3 + 0.4 * torch.rand(24, 1, 28, 28)
    with torch.no_grad():
        # Every class is some image's answer, and all are near the boundary.
        model.get_parameter("fc.bias").sub_(model(x).mean(dim=0))
        y = model(x).argmax(dim=1)
    y[::5] = (y[::5] + 1) % 10
    data, threat = Dataset("toys", "test", x, y, tuple("0123456789")), Linf(0.003)
    found = _module("judge").judge(model, data, threat, seed=3)
    bracket = audit(model, data, threat, run=tmp_path / "run", seed=3, curves=False, diagnosis=False).bracket
    assert (found["clean_accuracy"], found["attacked_accuracy"]) == (19 / 24, bracket.attacked_accuracy)
    assert 0 < bracket.broken < 19
    assert found["interval"][1] == bracket.interval[1]


def test_the_network_of_a_recipe_is_that_of_casemate_train_and_its_last_check_is_timed(monkeypatch, tmp_path):
    def slow(*arguments: Any) -> tuple[float, float, float]:
        time.sleep(0.3)
        return 1.0, 0.5, 0.5

    train(_toy(seed=4), tmp_path / "run")
    monkeypatch.setattr(guard, "accuracies", slow)
    (trained,) = _module("trainers").casemate(_toy(), 4)
    assert checkpoint.fingerprint(trained.result) == checkpoint.fingerprint(checkpoint.load(tmp_path / "run")[0])
    assert trained.wall > 0.3
    assert trained.cpu > 0


def test_fast_at_takes_its_published_rates(monkeypatch):
    rates = []

    class Adam(torch.optim.Adam):
        def step(self, closure: Any = None) -> None:
            rates.append(self.param_groups[0]["lr"])
            super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    images = load("digits-sample", "train", limit=100)
    first, again, other = (next(_module("trainers").fast_at(images, 10, seed)) for seed in (1, 1, 2))
    assert len(rates) == 3 * 10
    assert rates[:4] == pytest.approx([5e-3 * epoch / 4 for epoch in range(1, 5)])
    assert rates[3:10] == pytest.approx([5e-3 * left / 6 for left in range(6, -1, -1)])
    assert checkpoint.fingerprint(first.result) == checkpoint.fingerprint(again.result)
    assert checkpoint.fingerprint(first.result) != checkpoint.fingerprint(other.result)


def test_the_one_step_of_fast_at_on_a_linear_model():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 2, bias=False))
    x, y = torch.full((50, 1, 3, 3), 0.5), torch.zeros(50, dtype=torch.int64)
    x[25:] = 0.9
    direction = (model[1].weight[1] - model[1].weight[0]).detach().sign().view(1, 1, 3, 3)
    moved = (_module("trainers").one_step(model, x, y) - x) * direction
    # From anywhere in [-0.3, 0.3], 0.375 along the sign ends in [0.075, 0.3].
    assert moved[:25].min() > 0.075 - 1e-6
    assert moved[:25].max() < 0.3 + 1e-6
    # All starts beyond -0.075, five in eight of them, are stopped by the ball, and at 0.9 by the box.
    assert float((moved[:25] > 0.3 - 1e-6).double().mean()) == pytest.approx(5 / 8, abs=0.1)
    assert moved[25:][(direction > 0).expand(25, 1, 3, 3)].max() < 0.1 + 1e-6


def test_training_images_come_once_an_epoch_in_an_order_of_their_own():
    pieces = _module("trainers")._shuffled(10, 4, seed=0)
    epochs = [torch.cat(list(itertools.islice(pieces, 3))).tolist() for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]


def _speed_run(monkeypatch: pytest.MonkeyPatch, output: Path, **entries: Any) -> None:
    recipe = output / "toy.yaml"
    recipe.write_text(_toy(**entries).model_dump_json())
    options = "--repeats 2 --n 10 --fast-epochs 0 --budget-seconds 0.2 --points 2"
    threads = str(torch.get_num_threads())
    monkeypatch.setattr(
        sys,
        "argv",
        ["speed_run", "--recipe", str(recipe), "--threads", threads, "--output", str(output), *options.split()],
    )
    # The judge has a test of its own.
    monkeypatch.setitem(presets.PRESETS, "standard", presets.quick)
    _module("speed_run").main()


def test_a_speed_run_records_every_run_and_point(monkeypatch, capsys, tmp_path):
    def twin(network: Any, images: Dataset, budget: float, n_points: int, seed: int) -> Any:
        (trained,) = _module("trainers").fast_at(images, 0, seed)
        yield from [trained] * n_points

    monkeypatch.setattr(_module("contenders"), "imported", lambda *names: None)
    monkeypatch.setattr(_module("trainers"), "art", twin)
    _speed_run(monkeypatch, tmp_path)
    result = json.loads((tmp_path / "speed_run.json").read_text())
    ours, fast, art = result["rows"]
    assert [len(run["points"]) for row in (ours, fast, art) for run in row["runs"]] == [1, 1, 1, 1, 2, 2]
    assert [run["seed"] for run in fast["runs"]] == [0, 1]
    # The same training, and one judge for all.
    scores = ("clean_accuracy", "attacked_accuracy", "interval")
    for mine, theirs in zip(fast["runs"], art["runs"], strict=True):
        assert all(mine["points"][0][score] == theirs["points"][1][score] for score in scores)
    assert (tmp_path / "speed_run.svg").stat().st_size > 0
    assert capsys.readouterr().out.count("\n| fast-at | ") == 3


@pytest.mark.filterwarnings("ignore")
def test_a_speed_run_with_art_ends_with_its_budget(monkeypatch, capsys, tmp_path):
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
    _speed_run(monkeypatch, tmp_path)
    art = json.loads((tmp_path / "speed_run.json").read_text())["rows"][2]
    assert all(run["points"][-1]["wall"] >= 0.2 for run in art["runs"])
    assert all(point["wall"] < 0.2 for run in art["runs"] for point in run["points"][:-1])
    assert "| art | 1 | " in capsys.readouterr().out


def test_a_recipe_for_another_threat_model_is_refused_before_anything_is_trained(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(_module("contenders"), "imported", lambda *names: None)
    with pytest.raises(SystemExit) as stopped:
        _speed_run(monkeypatch, tmp_path, threat="linf:0.1")
    assert stopped.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "linf:0.1" in sentence
    assert not (tmp_path / "speed_run.json").exists()


def test_the_time_to_the_goal_is_given_only_where_it_was_reached():
    tables = _module("tables")
    points = [{"attacked_accuracy": share, "wall": wall} for share, wall in ((0.5, 10.0), (0.91, 20.0), (0.92, 30.0))]
    assert tables._reached({"reached": 20.0, "points": points}) == "20.0 s"
    assert tables._reached({"reached": None, "points": points[:1]}) == "not reached: 50.0% after 10 s"
    rows = {"runs": [{"reached": 20.0}, {"reached": None}]}
    assert tables._every(rows) == "no, 1 of 2"
    assert tables._every({"runs": rows["runs"][:1]}) == "yes"


def test_the_goal_is_reached_at_the_first_point_that_is_there(monkeypatch):
    speed_run, measure = _module("speed_run"), _module("measure")
    shares = iter((0.5, 0.89, 0.95))
    monkeypatch.setattr(speed_run, "judge", lambda *data, seed: {"attacked_accuracy": next(shares)})
    trainer = lambda seed: (measure.Timed(torch.nn.Flatten(), wall, wall) for wall in (1.0, 2.0, 3.0))  # noqa: E731
    (run,) = speed_run._race({"any": trainer}, [7], load("digits-sample", limit=1), 0)["any"]
    assert (run["seed"], run["reached"], len(run["points"])) == (7, 2.0, 3)


class _PeerThatStopsAtOne:
    """In the place of AutoAttack: its first attack breaks image 0 of those it is handed, the second nothing."""

    def __init__(self, model: Any, **settings: Any) -> None:
        self.model, self.settings, self.attacks_to_run = model, settings, ["apgd-ce", "square"]

    def run_standard_evaluation(self, x: torch.Tensor, y: torch.Tensor, *, batch_size: int) -> Any:
        predicted = y.clone()
        if self.attacks_to_run == ["apgd-ce"]:
            predicted[0] += 1
        return x, predicted


def test_autoattack_and_the_cascade_are_run_on_the_same_images(monkeypatch, capsys, tmp_path):
    peer = ModuleType("pyautoattack")
    peer.AutoAttack = _PeerThatStopsAtOne  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyautoattack", peer)
    train(_toy(), tmp_path / "net")
    before = [parameter.requires_grad for parameter in checkpoint.load(tmp_path / "net")[0].parameters()]
    assert any(before)
    options = ["--model", str(tmp_path / "net"), "--n", "20", "--repeats", "2", "--preset", "quick", "--json"]
    threads = str(torch.get_num_threads())
    monkeypatch.setattr(sys, "argv", ["autoattack", *options, "--threads", threads, "--output", str(tmp_path)])
    _module("autoattack").main()
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "autoattack_net.json").read_text())
    clean = {found[side]["clean"] for found in result["rounds"] for side in ("casemate", "autoattack")}
    assert len(clean) == 1
    for found in result["rounds"]:
        assert [stage["name"] for stage in found["autoattack"]["stages"]] == ["clean", "apgd-ce", "square"]
        assert found["autoattack"]["attacked"] == found["autoattack"]["clean"] - 1
        assert len(found["only_casemate"]) - len(found["only_autoattack"]) == (
            found["autoattack"]["attacked"] - found["casemate"]["attacked"]
        )
        assert found["casemate"]["wall"] == pytest.approx(
            sum(stage["wall"] for stage in found["casemate"]["stages"]), abs=0.1
        )
    model, _ = checkpoint.load(tmp_path / "net")
    test = load("digits-sample", "test", limit=20)
    judged = _module("judge").judge(model, test, Linf(0.3))
    # Standard begins with quick, so it leaves no more.
    assert judged["attacked_accuracy"] * 20 <= result["rounds"][0]["casemate"]["attacked"]
    table = _module("tables").autoattack_table(result)
    assert "AutoAttack takes" in table
    assert "| casemate | 0 |" in table
