"""Figure 4: accuracies and losses are what they are called, and its claims are measured right."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest
import torch.nn.functional as F
from grid_toys import constant, nearest_mean, network, toy_run
from torch import nn

from casemate import data
from casemate.attacks import FGSM, PGD, evaluate
from casemate.data import Dataset
from casemate.gradients import Engine
from casemate.papers.evaluation import Accuracy, evaluation
from casemate.papers.madry2018 import figure4, figure4_claims
from casemate.papers.madry2018.figure4 import CIFAR10, MNIST, Member
from casemate.papers.networks import Variant
from casemate.threat import Linf
from casemate.training.batches import hold_out

pytestmark = pytest.mark.usefixtures("_no_cifar10", "_smaller")

N = 40
WAYS = ("natural", "FGSM", "PGD")


@pytest.fixture
def _smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in ("small", "full"):
        monkeypatch.setitem(figure4.N_IMAGES, setting, N)
        monkeypatch.setitem(figure4.N_TRAINING, setting, 60)
    monkeypatch.setattr(figure4, "AT_A_TIME", 25)


def loss_of(name: str, training: Dataset, model: nn.Module | None = None) -> float:
    toy = network(name, model)
    return figure4.final_loss(toy, Engine(toy.model, precision="float32"), training, 60, seed=0)


def test_accuracies_are_direct_calls_of_evaluate() -> None:
    toy = network("mnist-pgd")
    run, _ = toy_run()
    frame = figure4.measured(MNIST, {Member("4", "PGD", Variant("mnist-pgd")): toy}, run)["accuracies"]
    digits, engine = data.load("digits-sample", "test", limit=N), Engine(toy.model, precision="float32")
    expected = [int((toy.model(digits.images).argmax(dim=1) == digits.labels).sum())]
    for attack in (FGSM(), PGD(n_steps=40, step_size=0.01)):
        found = evaluate(engine, digits.images, digits.labels, Linf(0.1), attack)
        expected.append(int(found.right_after.sum()))
    assert frame["right"].to_list() == expected
    assert frame["adversary"].to_list() == ["natural", "FGSM", "PGD"]
    assert expected[2] <= expected[1] < expected[0]


def test_the_final_loss_is_that_of_the_recipes_own_examples() -> None:
    """On a linear network: the mean over training images clean, and moved by one step of eps along the gradient."""
    training = data.load("digits-sample", "train")
    index = hold_out(len(training), 1000, 0)[0][:60]
    x, y = training.images[index], training.labels[index]
    model = nearest_mean(3)
    expected = F.cross_entropy(model(x), y).item()
    assert loss_of("mnist-natural", training, model) == pytest.approx(expected, rel=1e-5)
    probabilities = model(x).softmax(dim=1) - F.one_hot(y, 10)
    slope = (probabilities @ model[1].weight).view_as(x)
    expected = F.cross_entropy(model((x + 0.1 * slope.sign()).clamp(0, 1)), y).item()
    assert loss_of("mnist-fgsm", training, model) == pytest.approx(expected, rel=1e-4)
    # Three steps from a random start get near the same corner, and two seeds there alike.
    assert loss_of("mnist-pgd", training, model) == pytest.approx(expected, rel=0.1)


def test_the_final_loss_is_never_that_of_held_out_images() -> None:
    training = data.load("digits-sample", "train")
    held = hold_out(len(training), 1000, 0)[1]
    spoilt = training.labels.clone()
    spoilt[held] = (spoilt[held] + 1) % 10
    other = Dataset(training.name, "train", training.images, spoilt, training.classes)
    assert loss_of("mnist-natural", training) == loss_of("mnist-natural", other)


def test_a_network_with_one_answer_is_found_out() -> None:
    judged = evaluation(network("mnist-pgd"), N, 0)
    assert figure4.only_class(Engine(constant(1)), judged) == 1
    assert figure4.only_class(Engine(constant(0)), judged) == 0
    assert figure4.only_class(Engine(nearest_mean(0)), judged) is None
    run, _ = toy_run()
    models = {"1": constant(1), "2": nearest_mean(0)}
    toys = {Member(scale, "PGD", Variant("mnist-pgd")): network("mnist-pgd", model) for scale, model in models.items()}
    facts = figure4.measured(MNIST, toys, run)["networks"]
    assert facts["only_class"].to_list() == [1, None]
    # One class with a logit of 2 and nine of 0: the loss is log(9 + e^2), less 2 where the class is the right one.
    training = data.load("digits-sample", "train")
    ones = (training.labels[hold_out(len(training), 1000, 0)[0][:60]] == 1).double().mean().item()
    assert facts["loss"][0] == pytest.approx(math.log(9 + math.e**2) - 2 * ones, rel=1e-5)


def test_every_network_of_the_setting_stands_in_the_figure_once() -> None:
    run, asked = toy_run()
    outcome = figure4.make(run)
    assert [variant.name for variant in asked] == [
        f"mnist-{training}{scale}" for training in ("natural", "fgsm", "pgd") for scale in ("-scale1", "-scale2", "")
    ]
    frame = outcome.data["accuracies"]
    assert frame.select("training", "capacity", "adversary").is_unique().all()
    assert len(frame) == 9 * 3
    assert set(outcome.figures) == {"mnist"}
    *panels, losses = outcome.figures["mnist"].axes
    for axes, training in zip(panels, WAYS, strict=True):
        for line, adversary in zip(axes.lines[::3], WAYS, strict=False):
            own = frame.filter((pl.col("training") == training) & (pl.col("adversary") == adversary))
            assert line.get_ydata().tolist() == pytest.approx((100 * own["accuracy"]).to_list())
    drawn = [value for line in losses.lines for value in line.get_ydata()]
    assert drawn == pytest.approx(outcome.data["networks"]["loss"].to_list())
    assert losses.get_yscale() == "log"
    assert outcome.data["networks"]["parameters"].to_list() == [7850] * 9


def test_the_small_setting_leaves_out_cifar10_where_it_is_not_here() -> None:
    run, _ = toy_run()
    (row,) = [row for row in figure4.make(run).rows if row.item == "CIFAR-10"]
    assert row.ours == "not made"
    assert "casemate data cifar10" in row.note


def test_with_cifar10_both_data_sets_are_in_every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure4.pair, "at_hand", lambda name: True)
    run, asked = toy_run()
    outcome = figure4.make(run)
    assert asked[9:] == [Variant(f"cifar10-{training}") for training in ("natural", "fgsm", "pgd")]
    assert set(outcome.figures) == {"mnist", "cifar10"}
    assert outcome.data["networks"]["data"].to_list() == ["mnist"] * 9 + ["cifar10"] * 3
    printed = [row for row in outcome.rows if row.item.startswith("CIFAR-10, simple")]
    assert len(printed) == 15 + 3
    (remark,) = [row for row in outcome.rows if row.item == "CIFAR-10: the networks"]
    assert "three convolutions" in remark.ours


def fabricated(
    left: Mapping[tuple[str, str], list[float]], losses: Mapping[str, list[float]], only: Mapping[str, list[int | None]]
) -> dict[str, pl.DataFrame]:
    """Frames of two capacities; what is not given is 0.5 for an accuracy, 1 for a loss."""
    accuracies: list[dict[str, Any]] = []
    facts: list[dict[str, Any]] = []
    for training in WAYS:
        for place, capacity in enumerate("12"):
            labels = {"training": training, "capacity": capacity}
            for adversary in WAYS:
                share = left.get((training, adversary), [0.5, 0.5])[place]
                accuracies.append({**labels, "adversary": adversary, **Accuracy(round(1000 * share), 1000).columns()})
            loss = losses.get(training, [1.0, 1.0])[place]
            facts.append({**labels, "loss": loss, "only_class": only.get(training, [None, None])[place]})
    return {
        "accuracies": pl.DataFrame(accuracies),
        "networks": pl.DataFrame(facts, schema_overrides={"only_class": pl.Int64}),
    }


def test_the_claims_are_those_of_the_numbers() -> None:
    frames = fabricated(
        {
            ("natural", "natural"): [0.98, 0.99],
            ("natural", "FGSM"): [0.01, 0.06],
            ("FGSM", "natural"): [0.93, 0.95],
            ("FGSM", "FGSM"): [0.999, 0.90],
            ("FGSM", "PGD"): [0.0, 0.2],
        },
        {"FGSM": [0.01, 0.02], "PGD": [2.3, 0.1]},
        {"PGD": [1, None], "natural": [None, 7]},
    )
    rows = {row.item.partition(", ")[2]: row for row in figure4_claims.rows(MNIST, frames)}
    capacity = rows["natural training: accuracy on FGSM examples at capacity 1, 2"]
    assert (capacity.ours, capacity.note) == ("1.0, 6.0", "holds")
    first, second = (
        rows[f"FGSM training, capacity {scale}: accuracy on natural, FGSM, PGD examples"] for scale in "12"
    )
    assert first.ours == "93.0, 99.9, 0.0"
    assert first.note == (
        "FGSM at least natural: holds; natural below natural training's 98.0: holds; PGD at most 5%: holds"
    )
    assert second.note == (
        "FGSM at least natural: does not hold; natural below natural training's 99.0: holds; "
        "PGD at most 5%: does not hold"
    )
    collapse = rows["PGD training: networks that give every image the same class"]
    assert (collapse.ours, collapse.note) == ("class 1 at capacity 1", "class 1 is 11.35% of the test images")
    values = {way: rows[f"{way} training: value of the saddle point at capacity 1, 2"] for way in ("FGSM", "PGD")}
    assert (values["FGSM"].ours, values["FGSM"].note) == ("0.01, 0.02", "does not hold")
    assert (values["PGD"].ours, values["PGD"].note) == ("2.3, 0.1", "holds")


def test_no_collapse_is_said_too() -> None:
    frames = fabricated({}, {}, {})
    (row,) = [row for row in figure4_claims.rows(MNIST, frames) if "same class" in row.item]
    assert row.ours == "none of 1, 2"


# Simple / wide; a column for each way of training.
PRINTED = """
natural            | 92.7 / 95.2 | 87.4 / 90.3 | 79.4 / 87.3
FGSM               | 27.5 / 32.7 | 90.9 / 95.1 | 51.7 / 56.1
PGD                | 0.8 / 3.5   | 0.0 / 0.0   | 43.7 / 45.8
7-step PGD         | 1.2 / 4.1   | 0.0 / 0.0   | 47.1 / 50.0
random-start FGSM  | 19.6 / 25.1 | 90.4 / 95.0 | 55.9 / 60.3
loss               | 0.00357 / 0.00371 | 0.0115 / 0.00557 | 1.11 / 0.0218
"""


def test_the_published_numbers_are_those_of_the_paper() -> None:
    found: dict[tuple[str, str], tuple[float, ...]] = {}
    for line in PRINTED.strip().splitlines():
        adversary, *cells = (cell.strip() for cell in line.split("|"))
        for training, cell in zip(WAYS, cells, strict=True):
            found[training, adversary] = tuple(float(value) for value in cell.split(" / "))
    losses = {training: found.pop((training, "loss")) for training in WAYS}
    assert found == figure4_claims.PUBLISHED
    assert losses == figure4_claims.PUBLISHED_LOSS
    assert set(figure4.ADVERSARIES["cifar10"]) == {adversary for _, adversary in found}


def test_the_adversaries_are_those_of_the_paper() -> None:
    attacks = figure4.ADVERSARIES[CIFAR10.name]
    assert attacks["PGD"] == PGD(n_steps=20, step_size=2 / 255)
    assert attacks["7-step PGD"] == PGD(n_steps=7, step_size=2 / 255)
    assert attacks["random-start FGSM"] == FGSM(random_start=True)
    assert attacks["FGSM"] == FGSM()
