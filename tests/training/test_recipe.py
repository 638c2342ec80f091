from pathlib import Path
from typing import Any

import pytest
import torch
from training_toys import QUICK

from casemate import models
from casemate.data import LOADERS
from casemate.errors import CasemateError
from casemate.threat import Linf
from casemate.training import recipe as recipes
from casemate.training.adversarial import Adversarial
from casemate.training.fast import Fast
from casemate.training.natural import Natural
from casemate.training.objective import Objective
from casemate.training.trades import Trades

BUILT_IN = recipes.built_in()


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_recipes_can_be_trained(name: str) -> None:
    recipe = recipes.find(name)
    assert recipe == recipes.read(BUILT_IN[name])
    assert recipe.data in LOADERS
    with torch.device("meta"):
        model = models.build(recipe.model.name, **recipe.model.arguments)
    recipe.optimiser.build(model)
    recipe.build_objective()


def test_a_path_that_is_no_built_in_name_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("data: mnist\nmodel: {name: fast-at}\nobjective: {kind: natural}\nthreat: linf:8/255\n")
    recipe = recipes.find(str(path))
    assert recipe.threat == "linf:8/255"
    assert recipe.optimiser.lr == 1e-3


def test_every_objective_is_built_with_its_settings() -> None:
    threat = Linf(0.1)
    table: list[tuple[dict[str, Any], Objective]] = [
        ({"kind": "natural", "label_smoothing": 0.1}, Natural(0.1)),
        ({"kind": "adversarial", "n_steps": 3, "loss": "dlr"}, Adversarial(threat, n_steps=3, loss="dlr")),
        (
            {"kind": "adversarial", "step_size": 0.1, "random_start": False, "warm_up": 0.2},
            Adversarial(threat, 40, 0.1, False, 0.2),
        ),
        ({"kind": "fast", "method": "n-fgsm", "step_size": 0.05}, Fast(threat, "n-fgsm", 0.05)),
        (
            {"kind": "trades", "beta": 3, "n_steps": 7, "label_smoothing": 0.1},
            Trades(threat, 3, 7, label_smoothing=0.1),
        ),
    ]
    for entry, objective in table:
        assert recipes.from_dict(QUICK | {"objective": entry}, "x").build_objective() == objective


def test_the_objective_may_train_on_another_threat_model() -> None:
    recipe = recipes.from_dict(QUICK | {"objective": {"kind": "fast"}, "train_threat": "linf:0.12"}, "x")
    assert recipe.build_objective() == Fast(Linf(0.12))


def test_optimisers_are_those_of_the_recipe() -> None:
    model = torch.nn.Linear(2, 2)
    adam = recipes.OptimiserSettings(kind="adam", lr=0.1, weight_decay=0.01).build(model)
    assert isinstance(adam, torch.optim.AdamW)
    assert adam.defaults["weight_decay"] == 0.01
    sgd = recipes.OptimiserSettings(kind="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4).build(model)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"], sgd.defaults["weight_decay"]) == (0.9, True, 5e-4)
    assert not recipes.OptimiserSettings(kind="sgd", momentum=0).build(model).defaults["nesterov"]
    assert recipes.OptimiserSettings(lr=0.2, schedule="steps").rate(0.6) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"epochs": 0}, "epochs: Input should be greater than 0"),
        ({"epochs": float("inf")}, "epochs: Input should be a finite number"),
        ({"epochs": "many"}, "epochs: Input should be a valid number"),
        ({"epoch": 3}, "epoch: Extra inputs are not permitted"),
        ({"batch_size": 1.5}, "batch_size: "),
        ({"threat": "linf"}, "threat: unknown threat model 'linf': write norm:eps"),
        ({"threat": "linf:-1"}, "threat: eps must be a positive number"),
        ({"train_threat": "l7:1"}, "train_threat: unknown threat model"),
        ({"objective": {"kind": "magic"}}, "objective: .*'magic'"),
        ({"objective": {"n_steps": 3}}, "objective: .*'kind'"),
        ({"objective": {"kind": "adversarial", "n_steps": 0}}, "objective.adversarial.n_steps: "),
        ({"objective": {"kind": "fast", "n_steps": 2}}, "objective.fast.n_steps: Extra inputs"),
        ({"objective": {"kind": "adversarial", "warm_up": 2}}, "objective.adversarial.warm_up: "),
        ({"optimiser": {"lr": float("nan")}}, "optimiser.lr: "),
        ({"optimiser": {"lr": float("inf")}}, "optimiser.lr: "),
        ({"optimiser": {"schedule": "zigzag"}}, "optimiser.schedule: "),
        ({"optimiser": {"weight_decay": -1}}, "optimiser.weight_decay: "),
        ({"average": 1}, "average: Input should be less than 1"),
        ({"model": {"arguments": {}}}, "model.name: Field required"),
        ({"check": {"patience": 0}}, "check.patience: "),
        ({"hold_out": 0}, "hold_out: "),
        ({1: 2}, "1"),
    ],
)
def test_a_wrong_entry_is_named_in_one_sentence(entry: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CasemateError, match=f"^mine.yaml: {sentence}") as caught:
        recipes.from_dict(QUICK | entry, "mine.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "must hold entries such as `data: mnist`, not NoneType"),
        (b"- 1\n- 2\n", "not list"),
        (b"data: [", "cannot be read as YAML"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        (b"[" * 1500, "cannot be read as YAML"),
        (b"!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_sentence(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(CasemateError, match=sentence) as caught:
        recipes.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CasemateError, match="is absent: name a recipe file"):
        recipes.find(str(tmp_path / "none.yaml"))
    with pytest.raises(CasemateError, match="cannot be read as YAML"):
        recipes.read(tmp_path)
