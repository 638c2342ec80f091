"""The networks of a family differ in what the family is about, and in nothing else."""

from pathlib import Path

import pytest

from casemate.papers.item import Setting
from casemate.papers.madry2018 import families, figure4
from casemate.papers.madry2018.items import MADRY2018
from casemate.papers.madry2018.pair import DATA_SETS
from casemate.training import recipe as recipes
from casemate.training.adversarial import Adversarial
from casemate.training.recipe import ModelSettings, Recipe

SETTINGS: tuple[Setting, ...] = ("small", "full")
COPIES = sorted(MADRY2018.recipes.glob("*-copy-*.yaml"))


def read(name: str, setting: Setting) -> Recipe:
    return recipes.read(MADRY2018.recipes / f"{name}-{setting}.yaml")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("dataset", DATA_SETS, ids=lambda dataset: dataset.name)
def test_members_of_a_family_differ_in_width_alone(dataset: figure4.DataSet, setting: Setting) -> None:
    argument = {"mnist": "scale", "cifar10": "width"}[dataset.name]
    for title in families.TRAININGS.values():
        members = [member for member in figure4.members(dataset, setting) if member.training == title]
        found = [read(member.recipe, setting) for member in members]
        widths = [recipe.model.arguments.get(argument) for recipe in found]
        bare = [recipe.model_copy(update={"model": ModelSettings(name=recipe.model.name)}) for recipe in found]
        assert bare == bare[:1] * len(bare)
        if dataset.name == "mnist":
            assert widths == [int(member.capacity) for member in members] == list(families.SCALES[setting])
        elif setting == "full":
            assert widths == [1, 10]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("dataset", DATA_SETS, ids=lambda dataset: dataset.name)
def test_training_on_fgsm_is_training_on_pgd_with_one_step_of_eps(dataset: figure4.DataSet, setting: Setting) -> None:
    one, several = (read(f"{dataset.name}-{training}", setting) for training in ("fgsm", "pgd"))
    assert one.model_copy(update={"objective": several.objective}) == several
    objective, other = one.build_objective(), several.build_objective()
    assert isinstance(objective, Adversarial)
    assert isinstance(other, Adversarial)
    assert (objective.n_steps, objective.random_start) == (1, False)
    assert objective.step_size == pytest.approx(objective.threat.eps, rel=1e-7)
    assert (objective.warm_up, objective.loss) == (other.warm_up, other.loss)


@pytest.mark.parametrize("path", COPIES, ids=lambda path: path.stem)
def test_a_copy_differs_in_its_seed_alone(path: Path) -> None:
    copy, original = recipes.read(path), recipes.read(Path(str(path).replace("-copy-", "-")))
    # Far from the seeds that `--seed` adds to, so that a copy is never the original of another run.
    assert copy.seed == 1000
    assert copy.model_copy(update={"seed": original.seed}) == original


def test_every_network_of_the_transfers_has_a_copy() -> None:
    names = {path.stem for path in COPIES}
    for setting in SETTINGS:
        for training in families.TRAININGS:
            assert (
                f"{families.copy_of(families.mnist(training, families.OWN_SCALE[setting], setting))}-{setting}" in names
            )
            for capacity in families.CAPACITIES[setting]:
                assert f"{families.copy_of(families.cifar10(training, capacity, setting))}-{setting}" in names


def test_the_largest_network_is_that_of_the_other_figures() -> None:
    assert read(families.mnist("pgd", 16, "full"), "full") == read("mnist-pgd", "full")
    assert families.mnist("pgd", 16, "full") == "mnist-pgd"
    assert families.cifar10("natural", "wide", "full") == "cifar10-natural"


def test_network_b_is_trained_as_by_its_authors() -> None:
    recipe = read("mnist-natural-b", "full")
    assert recipe.model == ModelSettings(name="tramer-b")
    assert (recipe.epochs, recipe.batch_size, recipe.optimiser.kind, recipe.optimiser.lr) == (6, 64, "adam", 0.001)
