"""The networks of a family differ in what the family is about, and in nothing else."""

from pathlib import Path

import pytest

from casemate.papers.item import Setting
from casemate.papers.madry2018 import dimension, families, figure4, norms, table1
from casemate.papers.madry2018.items import MADRY2018
from casemate.papers.madry2018.pair import DATA_SETS
from casemate.papers.networks import Networks, Variant
from casemate.training.adversarial import Adversarial
from casemate.training.recipe import ModelSettings, Recipe

SETTINGS: tuple[Setting, ...] = ("small", "full")


def read(variant: Variant, setting: Setting) -> Recipe:
    return Networks(MADRY2018.recipes, Path("unused"), setting).recipe(variant)


def members(setting: Setting) -> list[Variant]:
    return [member.network for dataset in DATA_SETS for member in figure4.members(dataset, setting)]


def asked(setting: Setting) -> set[Variant]:
    """What the items open: those of the families with a copy of each, of the tables, of every size and every radius."""
    family = members(setting)
    sizes = [
        study.network(kind, side, setting)
        for study in dimension.STUDIES
        for kind in dimension.TRAININGS
        for side in study.sides
    ]
    tables = [*table1.TARGETS.values(), *table1.SOURCES.values()]
    copies = [families.copy_of(network) for network in family]
    return {*family, *copies, *sizes, *tables, *norms.NETWORKS.values()}


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_two_networks_have_one_name_or_are_trained_alike(setting: Setting) -> None:
    """Else one would be taken for the other, or trained twice."""
    recipes = {variant.name: read(variant, setting).model_dump_json() for variant in asked(setting)}
    assert len(recipes) == len(asked(setting))
    assert len(set(recipes.values())) == len(recipes)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("dataset", DATA_SETS, ids=lambda dataset: dataset.name)
def test_members_of_a_family_differ_in_width_alone(dataset: figure4.DataSet, setting: Setting) -> None:
    argument = {"mnist": "scale", "cifar10": "width"}[dataset.name]
    for title in families.TRAININGS.values():
        members = [member for member in figure4.members(dataset, setting) if member.training == title]
        found = [read(member.network, setting) for member in members]
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
    one, several = (read(Variant(f"{dataset.name}-{training}"), setting) for training in ("fgsm", "pgd"))
    assert one.model_copy(update={"objective": several.objective}) == several
    objective, other = one.build_objective(), several.build_objective()
    assert isinstance(objective, Adversarial)
    assert isinstance(other, Adversarial)
    assert (objective.n_steps, objective.random_start) == (1, False)
    assert objective.step_size == pytest.approx(objective.threat.eps, rel=1e-7)
    assert (objective.warm_up, objective.loss) == (other.warm_up, other.loss)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_copy_differs_in_its_seed_alone(setting: Setting) -> None:
    for network in members(setting):
        copy, original = read(families.copy_of(network), setting), read(network, setting)
        # Far from the seeds that `--seed` adds to, so that a copy is never the original of another run.
        assert copy.seed == original.seed + 1000
        assert copy.model_copy(update={"seed": original.seed}) == original


def test_the_largest_network_is_that_of_the_other_figures() -> None:
    assert families.mnist("pgd", 4, "small") == families.mnist("pgd", 16, "full") == Variant("mnist-pgd")
    assert families.cifar10("natural", "wide", "full") == Variant("cifar10-natural")
    assert read(Variant("mnist-pgd"), "full").model.arguments == {"scale": 16}


def test_network_b_is_trained_as_by_its_authors() -> None:
    recipe = read(Variant("mnist-natural-b"), "full")
    assert recipe.model == ModelSettings(name="tramer-b")
    assert (recipe.epochs, recipe.batch_size, recipe.optimiser.kind, recipe.optimiser.lr) == (6, 64, "adam", 0.001)
