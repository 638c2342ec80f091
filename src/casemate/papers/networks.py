"""A paper's networks by name: opened where they were trained before, otherwise trained by the paper's recipe."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from casemate import checkpoint
from casemate.errors import CasemateError
from casemate.precision import Precision
from casemate.threat import parse
from casemate.training import recipe as recipes
from casemate.training.folder import finished
from casemate.training.log import Observer
from casemate.training.recipe import AdversarialSettings, FastSettings, Recipe, TradesSettings

# Far from the seeds that `--seed` adds to, so that a copy is never the original of another run.
SEEDS_BETWEEN_COPIES = 1000

# Of an architecture, as pairs, which unlike a mapping can be a key.
Arguments = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Variant:
    """A network that differs from that of a `recipe` in a few entries, which are not worth a recipe of their own.

    `copy` counts independent copies, which differ in their seed. `arguments` are merged into those of the model, `data`
    and `threat` take the place of the recipe's. `earlier` is the checkpoint folder that a distillation or a cascade
    starts from, where the recipe names none.
    """

    recipe: str
    copy: int = 0
    data: str | None = None
    threat: str | None = None
    arguments: Arguments = ()
    earlier: str | None = None

    @property
    def name(self) -> str:
        """That of the recipe and then every difference, such as "mnist-pgd-scale2-copy"; fit for a folder."""
        parts = [f"{key}{value}" for key, value in self.arguments]
        parts += [] if self.data is None else [f"on-{self.data}"]
        parts += [] if self.threat is None else [self.threat]
        parts += [] if self.earlier is None else ["second"]
        parts += [] if self.copy == 0 else ["copy"] if self.copy == 1 else [f"copy{self.copy}"]
        return "-".join([self.recipe, *(re.sub(r"[^\w.@-]+", "-", part) for part in parts)])

    def of(self, recipe: Recipe) -> Recipe:
        """What is trained, given the recipe of that name."""
        model = recipe.model.model_copy(update={"arguments": recipe.model.arguments | dict(self.arguments)})
        changes: dict[str, Any] = {"seed": recipe.seed + SEEDS_BETWEEN_COPIES * self.copy, "model": model}
        if self.earlier is not None:
            changes["objective"] = recipe.objective.model_copy(update={"earlier": self.earlier})
        other = recipe.model_copy(update=changes | ({} if self.data is None else {"data": self.data}))
        return other if self.threat is None else _against(other, self.threat)


def _against(recipe: Recipe, text: str) -> Recipe:
    """The recipe for another threat model, which is both trained on and checked against.

    A step size that the recipe states grows with eps; under another norm it would mean nothing, and is left to its
    default.
    """
    old, new = parse(recipe.train_threat or recipe.threat), parse(text)
    objective = recipe.objective
    if isinstance(objective, AdversarialSettings | FastSettings | TradesSettings) and objective.step_size is not None:
        step_size = objective.step_size * new.eps / old.eps if type(new) is type(old) else None
        objective = objective.model_copy(update={"step_size": step_size})
    return recipe.model_copy(update={"threat": str(new), "train_threat": None, "objective": objective})


@dataclass(frozen=True, eq=False)
class Network:
    """A trained classifier in eval mode, with its recipe and its card; `trained` says that it was trained just now."""

    name: str
    model: nn.Module
    recipe: Recipe
    card: dict[str, Any]
    folder: Path
    trained: bool


@dataclass(frozen=True)
class Networks:
    """The networks of one setting and seed: recipes are `recipes`/NAME-SETTING.yaml, checkpoints go under `folder`.

    `seed` is added to the recipe's own, so that a paper may have two networks that differ in their seed alone.
    `precision` is that of the search in training, which "auto" chooses by time, so that a seed alone does not fix a
    network. `say` is told what is trained, `observe` how it goes.
    """

    recipes: Path
    folder: Path
    setting: str
    seed: int = 0
    device: torch.device = torch.device("cpu")
    precision: Precision = "auto"
    command: str = ""
    say: Callable[[str], None] = lambda text: None
    observe: Observer | None = None

    def recipe(self, variant: Variant) -> Recipe:
        """What is trained in this setting, by this seed; raises `CasemateError` listing the known recipes."""
        path = self.recipes / f"{variant.recipe}-{self.setting}.yaml"
        if not path.is_file():
            known = sorted(path.stem for path in self.recipes.glob(f"*-{self.setting}.yaml"))
            raise CasemateError(f"there is no recipe {path.stem} in {self.recipes}; known are {', '.join(known)}")
        recipe = variant.of(recipes.read(path))
        return recipe.model_copy(update={"seed": recipe.seed + self.seed})

    def open(self, asked: str | Variant) -> Network:
        """The network of a recipe or a variant of one, on the device, from its checkpoint `folder`/NAME-SETTING-seedN.

        What is there already is not trained again, and a training that was killed goes on. Raises `CasemateError` for
        a name without a recipe, and where the checkpoint there is not of this very recipe and seed.
        """
        variant = Variant(asked) if isinstance(asked, str) else asked
        full_name, recipe = f"{variant.name}-{self.setting}", self.recipe(variant)
        folder = self.folder / f"{full_name}-seed{recipe.seed}"
        absent = finished(folder, recipe, resume=True) is None
        if absent:
            # Lightning takes seconds to import, and what is trained already is opened without it.
            from casemate.training.train import Settings, train

            self.say(f"training {full_name} into {folder}")
            settings = Settings(
                accelerator=self.device.type, precision=self.precision, resume=True, command=self.command
            )
            train(recipe, folder, settings, observe=self.observe)
        model, card = checkpoint.load(folder)
        return Network(full_name, model.to(self.device), recipe, card, folder, absent)
