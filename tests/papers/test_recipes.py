"""The recipes of a paper's networks: they are what they say, and both settings have one for every data set."""

import json
import sys
from pathlib import Path

import pytest
import torch

from casemate import models
from casemate.cli import main
from casemate.papers.madry2018.items import MADRY2018
from casemate.papers.madry2018.pair import DATA_SETS
from casemate.papers.reproduce import PAPERS
from casemate.training import recipe as recipes
from casemate.training.adversarial import Adversarial
from casemate.training.fast import Fast
from casemate.training.natural import Natural

RECIPES = sorted(MADRY2018.recipes.glob("*.yaml"))
OBJECTIVES = {"natural": Natural, "fgsm": Adversarial, "pgd": Adversarial, "fast": Fast}
N_TRAIN = {"mnist": 60_000, "cifar10": 50_000}
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


def steps(recipe: recipes.Recipe) -> int:
    return round((N_TRAIN[recipe.data] - recipe.hold_out) // recipe.batch_size * recipe.epochs)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_its_data_and_says_what_it_trains(path: Path) -> None:
    recipe = recipes.read(path)
    with torch.device("meta"):
        logits = models.build(recipe.model.name, **recipe.model.arguments)(torch.empty(2, *SHAPES[recipe.data]))
    assert logits.shape == (2, 10)
    assert path.stem.startswith(recipe.data)
    assert path.read_text().startswith("# ")
    threats = {"mnist": "linf:0.3", "cifar10": "linf:8/255"}
    assert recipe.threat == ("l2:2" if "-l2-" in path.stem else threats[recipe.data])
    assert isinstance(recipe.build_objective(), OBJECTIVES[path.stem.split("-")[1]])


def test_both_settings_have_a_pair_of_networks_for_every_data_set() -> None:
    names = {
        f"{d.name}-{kind}-{setting}" for d in DATA_SETS for kind in ("natural", "pgd") for setting in ("small", "full")
    }
    assert names <= {path.stem for path in RECIPES}


@pytest.mark.parametrize(
    ("data", "n_steps", "batch_size", "search"), [("mnist", 100_000, 50, 40), ("cifar10", 80_000, 128, 7)]
)
def test_the_full_recipes_take_the_papers_steps(data: str, n_steps: int, batch_size: int, search: int) -> None:
    trained = recipes.read(MADRY2018.recipes / f"{data}-pgd-full.yaml")
    natural = recipes.read(MADRY2018.recipes / f"{data}-natural-full.yaml")
    assert steps(trained) == steps(natural) == n_steps
    assert trained.batch_size == batch_size
    assert trained.objective.n_steps == search  # type: ignore[union-attr]
    assert trained.model == natural.model
    with torch.device("meta"):
        network = models.build(trained.model.name, **trained.model.arguments)
    # Counted from the layers in the paper's code: network A, and the wide residual network.
    assert sum(p.numel() for p in network.parameters()) == {"mnist": 3_274_634, "cifar10": 45_901_914}[data]


@pytest.mark.parametrize("setting", ["small", "full"])
def test_training_in_l2_differs_in_the_threat_model_and_its_step_alone(setting: str) -> None:
    linf, l2 = (recipes.read(MADRY2018.recipes / f"{name}-{setting}.yaml") for name in ("mnist-pgd", "mnist-pgd-l2"))
    assert l2.objective.step_size is None  # type: ignore[union-attr]
    unstated = linf.objective.model_copy(update={"step_size": None})
    assert linf.model_copy(update={"threat": "l2:2", "objective": unstated}) == l2


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_the_small_trainings_take_few_gradients(data: str) -> None:
    trained = recipes.read(MADRY2018.recipes / f"{data}-pgd-small.yaml")
    # 0.28 ms each for the quarter of network A on one core, less for the small one: five minutes are a million.
    assert steps(trained) * trained.batch_size * (trained.objective.n_steps + 1) < 1.5e6  # type: ignore[union-attr]


def test_training_knows_a_papers_recipes_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["casemate", "train", "--list", "--json"])
    with pytest.raises(SystemExit):
        main()
    listed = json.loads(capsys.readouterr().out)
    papers = {f"{paper.name}/{path.stem}" for paper in PAPERS.values() for path in paper.recipes.glob("*.yaml")}
    assert {f"madry2018/{path.stem}" for path in RECIPES} <= papers
    assert papers | set(recipes.built_in()) == set(listed)
    monkeypatch.setattr(sys, "argv", ["casemate", "train", "madry2018/mnist-pgd-full", "--devices", "3"])
    with pytest.raises(SystemExit) as stopped:
        main()
    # The refusal is about this very recipe's batches of 50.
    assert stopped.value.code == 2
    assert "a batch of 50 does not divide among 3 devices" in capsys.readouterr().err
