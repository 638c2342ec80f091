"""The recipes of a paper's networks: they are what they say, and both settings have one for every data set."""

from pathlib import Path

import pytest
import torch

from casemate import models
from casemate.papers.madry2018.items import MADRY2018
from casemate.papers.madry2018.pair import DATA_SETS
from casemate.training import recipe as recipes
from casemate.training.adversarial import Adversarial
from casemate.training.natural import Natural

RECIPES = sorted(MADRY2018.recipes.glob("*.yaml"))
N_TRAIN = {"mnist": 60_000, "cifar10": 50_000}
CHANNELS, SIDE = {"mnist": 1, "cifar10": 3}, {"mnist": 28, "cifar10": 32}


def steps(recipe: recipes.Recipe) -> int:
    return round((N_TRAIN[recipe.data] - recipe.hold_out) // recipe.batch_size * recipe.epochs)


def data_of(recipe: recipes.Recipe) -> tuple[str, tuple[int, int, int]]:
    """The name of the data set without the size of its images, and their shape."""
    name, _, side = recipe.data.partition("@")
    return name, (CHANNELS[name], int(side or SIDE[name]), int(side or SIDE[name]))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_its_data_and_says_what_it_trains(path: Path) -> None:
    recipe = recipes.read(path)
    name, shape = data_of(recipe)
    with torch.device("meta"):
        logits = models.build(recipe.model.name, **recipe.model.arguments)(torch.empty(2, *shape))
    assert logits.shape == (2, 10)
    assert path.stem.startswith(name)
    assert path.read_text().startswith("# ")
    assert recipe.threat == {"mnist": "linf:0.3", "cifar10": "linf:8/255"}[name]
    assert isinstance(recipe.build_objective(), Natural if "natural" in path.stem else Adversarial)


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


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_the_small_trainings_take_few_gradients(data: str) -> None:
    trained = recipes.read(MADRY2018.recipes / f"{data}-pgd-small.yaml")
    # 0.28 ms each for the quarter of network A on one core, less for the small one: five minutes are a million.
    assert steps(trained) * trained.batch_size * (trained.objective.n_steps + 1) < 1.5e6  # type: ignore[union-attr]
