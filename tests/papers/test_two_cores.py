"""CIFAR-10 on two cores: the curve is that of the training's log, and the rows are what the attacks leave."""

import json

import polars as pl
import pytest
import torch
from paper_toys import RECIPE

from casemate.attacks import PGD, Restarts, evaluate
from casemate.audit.cascade import run_block
from casemate.gradients import Engine
from casemate.papers.item import Outcome, Run
from casemate.papers.madry2018 import two_cores
from casemate.papers.madry2018.items import MADRY2018
from casemate.papers.networks import Networks
from casemate.training import recipe as recipes
from casemate.training.fast import Fast
from casemate.training.log import LOG

N = 40


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("two-cores")
    content = RECIPE.format(objective="{kind: fast, method: n-fgsm}").replace("epochs: 1", "epochs: 3")
    (folder / "cifar10-fast-small.yaml").write_text(content)
    return Run("small", 0, Networks(folder, folder / "networks", "small").open)


@pytest.fixture(scope="module")
def outcome(toy_run: Run) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_cores, "N_IMAGES", {"small": N})
        return two_cores.make(toy_run)


def test_the_curve_is_one_point_for_each_check_of_the_log(outcome: Outcome) -> None:
    (network,) = outcome.networks
    lines = [json.loads(line) for line in (network.folder / LOG).read_text().splitlines()]
    checks = [line for line in lines if line["kind"] == "check"]
    curve = outcome.data["training"]
    assert curve["epoch"].to_list() == [1, 2, 3] == [line["epoch"] for line in checks]
    assert curve["seconds"].is_sorted()
    assert curve["attacked_accuracy"].to_list() == [line["attacked_accuracy"] for line in checks]
    assert curve["clean_accuracy"][-1] == network.card["metrics"]["clean"]


def test_each_attack_leaves_what_it_leaves_alone_or_in_turn(outcome: Outcome, toy_run: Run) -> None:
    (network,) = outcome.networks
    judged = two_cores.evaluation(network, N, toy_run.seed)
    everything = outcome.data["accuracies"]
    frame = everything.filter(pl.col("answer") == two_cores.AS_IT_IS)
    left = dict(frame.select("attack", "right").iter_rows())
    assert left[two_cores.CLEAN] == int((network.model(judged.x).argmax(dim=1) == judged.y).sum())
    alone = evaluate(network.model, judged.x, judged.y, judged.threat, PGD(n_steps=20, step_size=2 / 255))
    assert left[two_cores.PAPERS] == int(alone.right_after.sum())
    block = run_block(
        Engine(network.model), judged.x, judged.y, torch.arange(N), judged.threat, two_cores.IN_TURN, toy_run.seed
    )
    right = block.prediction == block.label
    assert frame["right"][2:].to_list() == [int((right & ~block.broke[:, :n].any(dim=1)).sum()) for n in (1, 2, 3)]
    assert 0 < left[two_cores.STRONGEST] <= left[two_cores.PAPERS]
    mirrored = everything.filter(pl.col("answer") == two_cores.MIRRORED)
    mean = (network.model(judged.x) + network.model(judged.x.flip(3))) / 2
    assert mirrored["right"][0] == int((mean.argmax(dim=1) == judged.y).sum())
    assert mirrored["attack"].to_list() == frame["attack"].to_list()
    assert mirrored["right"][2:].is_sorted(descending=True)


def test_the_strongest_attack_is_fifty_steps_ten_times_on_each_of_three_losses() -> None:
    attacks = [stage.attack for stage in two_cores.IN_TURN]
    assert attacks == [Restarts(PGD(n_steps=50, loss=loss), 10) for loss in ("margin", "dlr", "cross-entropy")]
    assert two_cores.STRONGEST == "PGD-50 x 10 on margin + dlr + cross-entropy"


def test_the_rows_hold_published_and_measured_values_and_the_cost(outcome: Outcome) -> None:
    rows = {row.item.removeprefix("CIFAR-10: "): row for row in outcome.rows}
    frame = outcome.data["accuracies"]
    for name, published in (("clean", "87.3"), ("PGD-20", "45.8"), (two_cores.STRONGEST, "43.95")):
        mine = (pl.col("attack") == name) & (pl.col("answer") == two_cores.AS_IT_IS)
        share = frame.row(by_predicate=mine, named=True)["accuracy"]
        assert rows[name].published == published
        assert rows[name].ours.startswith(f"{100 * share:.1f} (")
        assert rows[name].note == f"n = {N}"
        assert f"{name}, {two_cores.MIRRORED}" in rows
    assert "minutes" in rows["time of training"].ours
    assert "at 3 checks" in rows["catastrophic overfitting"].ours
    assert "minutes of training" in [axes.get_xlabel() for axes in outcome.figures["cifar10"].axes]


@pytest.mark.parametrize("setting", ["small", "full"])
def test_the_recipes_train_by_single_steps_and_stop_when_those_are_fooled(setting: str) -> None:
    recipe = recipes.read(MADRY2018.recipes / f"cifar10-fast-{setting}.yaml")
    assert isinstance(recipe.build_objective(), Fast)
    assert recipe.check.patience is not None
