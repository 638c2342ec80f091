"""A paper's networks are trained once, each by its very recipe and seed."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from paper_toys import OBJECTIVES, RECIPE, write_recipes

from casemate import checkpoint
from casemate.errors import CasemateError
from casemate.papers.networks import Networks, Variant
from casemate.precision import Precision
from casemate.training import recipe as recipes
from casemate.training import train as training
from casemate.training.recipe import Recipe


def copied(toys: Path, place: Path) -> Path:
    shutil.copytree(toys, place / "toys")
    return place / "toys"


def test_a_trained_network_is_opened_and_not_trained_again(toys: Path) -> None:
    told: list[object] = []
    weights = (toys / "networks" / "mnist-pgd-small-seed0" / checkpoint.WEIGHTS).stat()
    networks = Networks(
        toys / "recipes", toys / "networks", "small", say=told.append, observe=lambda row, total: told.append(row)
    )
    network = networks.open("mnist-pgd")
    assert told == []
    assert not network.trained
    assert (network.folder / checkpoint.WEIGHTS).stat() == weights
    assert network.name == "mnist-pgd-small"
    assert network.recipe == recipes.read(toys / "recipes" / "mnist-pgd-small.yaml")
    assert checkpoint.fingerprint(network.model) == checkpoint.fingerprint(checkpoint.load(network.folder)[0])
    assert not network.model.training


def test_a_network_that_is_absent_is_trained_and_told_of(tmp_path: Path) -> None:
    said: list[str] = []
    steps: list[int] = []
    networks = Networks(
        write_recipes(tmp_path / "recipes"),
        tmp_path / "networks",
        "small",
        command="casemate reproduce",
        say=said.append,
        observe=lambda row, total: steps.append(row["step"]),
    )
    network = networks.open("mnist-natural")
    assert network.trained
    assert steps[-1] == network.card["steps"] == 60
    assert "mnist-natural-small" in said[0]
    assert network.card["command"] == "casemate reproduce"


# "auto" would choose one of the two, so that both show that it is told.
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_is_trained_in_the_precision_asked_for(tmp_path: Path, precision: Precision) -> None:
    networks = Networks(write_recipes(tmp_path / "recipes"), tmp_path / "networks", "small", precision=precision)
    assert networks.open("mnist-natural").card["search_precision"] == precision


def test_another_seed_is_another_network_beside_the_first(toys: Path, tmp_path: Path) -> None:
    folder = copied(toys, tmp_path)
    zero = Networks(folder / "recipes", folder / "networks", "small").open("mnist-natural")
    one = Networks(folder / "recipes", folder / "networks", "small", seed=1).open("mnist-natural")
    assert one.recipe.seed == one.card["seed"] == 1
    assert one.folder != zero.folder
    assert not torch.equal(one.model.state_dict()["fc.weight"], zero.model.state_dict()["fc.weight"])
    again = Networks(folder / "recipes", folder / "networks", "small").open("mnist-natural")
    assert checkpoint.fingerprint(again.model) == checkpoint.fingerprint(zero.model)


def test_the_seed_is_added_to_that_of_the_recipe(tmp_path: Path) -> None:
    content = RECIPE.format(objective=OBJECTIVES["mnist-natural"]).replace("epochs: 1", "epochs: 0.1")
    (tmp_path / "copy-small.yaml").write_text(content + "seed: 5\n")
    assert Networks(tmp_path, tmp_path / "networks", "small", seed=2).open("copy").recipe.seed == 7


def test_a_variant_is_trained_and_found_again_beside_its_recipe(toys: Path, tmp_path: Path) -> None:
    folder = copied(toys, tmp_path)
    networks = Networks(folder / "recipes", folder / "networks", "small")
    wanted = Variant("mnist-natural", copy=1, threat="linf:0.2", arguments=(("width", 2),))
    network = networks.open(wanted)
    assert network.trained
    assert network.name == f"{wanted.name}-small"
    assert network.folder == folder / "networks" / f"{wanted.name}-small-seed1000"
    assert network.card["threat"] == "linf:0.2"
    assert network.card["arguments"] == {"width": 2}
    assert not networks.open(wanted).trained
    assert networks.open(Variant("mnist-natural")).folder == networks.open("mnist-natural").folder


def recipe(threat: str = "linf:0.2", **objective: object) -> Recipe:
    content = {
        "data": "digits-sample",
        "model": {"name": "small-cnn", "arguments": {"width": 4, "size": 28}},
        "objective": {"kind": "adversarial", "n_steps": 3, **objective},
        "threat": threat,
        "seed": 3,
    }
    return recipes.from_dict(content, "toy")


def test_a_variant_differs_in_what_it_says_and_in_nothing_else() -> None:
    plain = recipe()
    assert Variant("toy").of(plain) == plain
    assert Variant("toy", copy=2).of(plain) == plain.model_copy(update={"seed": 2003})
    assert Variant("toy", data="digits-sample@14").of(plain) == plain.model_copy(update={"data": "digits-sample@14"})
    wider = Variant("toy", arguments=(("width", 8),)).of(plain)
    assert wider.model.arguments == {"width": 8, "size": 28}
    assert wider.model_copy(update={"model": plain.model}) == plain
    assert plain.model.arguments == {"width": 4, "size": 28}


@pytest.mark.parametrize(
    ("old", "new", "step_size", "expected"),
    [
        ("linf:0.2", "linf:0.3", 0.05, 0.075),
        ("linf:8/255", "linf:4/255", 2 / 255, 1 / 255),
        ("l2:2", "l2:1", 0.5, 0.25),
        ("linf:0.2", "linf:0.3", None, None),
        # A step in the units of another norm says nothing.
        ("linf:0.2", "l2:2", 0.05, None),
        ("l2:2", "linf:0.2", 0.5, None),
    ],
)
def test_a_step_grows_with_the_threat_model(
    old: str, new: str, step_size: float | None, expected: float | None
) -> None:
    before = recipe(old, step_size=step_size)
    after = Variant("toy", threat=new).of(before)
    assert after.threat == new
    assert after.objective.step_size == (None if expected is None else pytest.approx(expected))  # type: ignore[union-attr]
    stepped = after.objective.model_copy(update={"step_size": step_size})
    assert after.model_copy(update={"threat": before.threat, "objective": stepped}) == before


def test_the_threat_model_of_a_variant_is_the_one_it_is_trained_on() -> None:
    other = recipe(step_size=0.06).model_copy(update={"train_threat": "linf:0.3"})
    changed = Variant("toy", threat="linf:0.1").of(other)
    assert changed.build_objective().threat.eps == 0.1  # type: ignore[attr-defined]
    assert changed.objective.step_size == pytest.approx(0.02)  # type: ignore[union-attr]
    natural = recipes.from_dict({**recipe().model_dump(), "objective": {"kind": "natural"}}, "toy")
    assert Variant("toy", threat="l2:1").of(natural) == natural.model_copy(update={"threat": "l2:1"})


def test_a_name_tells_variants_apart_and_is_fit_for_a_folder() -> None:
    variants = [
        Variant("toy", copy, data, threat, arguments)
        for copy in (0, 1, 2)
        for data in (None, "mnist@14", "mnist@56")
        for threat in (None, "linf:0.3", "l2:0.3", "linf:8/255")
        for arguments in ((), (("scale", 2),), (("scale", 2), ("size", 14)))
    ]
    names = {variant.name for variant in variants}
    assert len(names) == len(variants)
    assert all(re.fullmatch(r"toy[\w.@-]*", name) for name in names)
    assert Variant("toy").name == "toy"
    assert Variant("toy", 1, "mnist@14", "linf:8/255", (("scale", 9),)).name == "toy-scale9-on-mnist@14-linf-8-255-copy"


def test_a_checkpoint_of_another_recipe_is_refused_and_kept(toys: Path, tmp_path: Path) -> None:
    folder = copied(toys, tmp_path)
    path = folder / "recipes" / "mnist-natural-small.yaml"
    path.write_text(path.read_text().replace("lr: 0.01", "lr: 0.02"))
    weights = (folder / "networks" / "mnist-natural-small-seed0" / checkpoint.WEIGHTS).read_bytes()
    with pytest.raises(CasemateError, match="another recipe"):
        Networks(folder / "recipes", folder / "networks", "small").open("mnist-natural")
    assert (folder / "networks" / "mnist-natural-small-seed0" / checkpoint.WEIGHTS).read_bytes() == weights


def test_a_training_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", 0.0)
    recipes_folder = write_recipes(tmp_path / "recipes")

    def interrupt(row: object, total: int) -> None:
        if row["step"] >= 30:  # type: ignore[index]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Networks(recipes_folder, tmp_path / "n", "small", observe=interrupt).open("mnist-natural")
    steps: list[int] = []
    networks = Networks(recipes_folder, tmp_path / "n", "small", observe=lambda row, total: steps.append(row["step"]))
    assert networks.open("mnist-natural").trained
    assert 20 < steps[0] <= 30
    assert steps[-1] == 60


def test_a_name_without_a_recipe_lists_the_known_ones(toys: Path) -> None:
    with pytest.raises(CasemateError, match=r"mnist-natural-small, mnist-pgd-small$"):
        Networks(toys / "recipes", toys / "networks", "small").open("imagenet-pgd")
    with pytest.raises(CasemateError, match=r"no recipe imagenet-pgd-small .* mnist-natural-small, mnist-pgd-small$"):
        Networks(toys / "recipes", toys / "networks", "small").open(Variant("imagenet-pgd", copy=1))
