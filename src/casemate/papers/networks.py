"""A paper's networks by name: opened where they were trained before, otherwise trained by the paper's recipe."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from casemate import checkpoint
from casemate.errors import CasemateError
from casemate.training import recipe as recipes
from casemate.training.folder import finished
from casemate.training.log import Observer
from casemate.training.recipe import Recipe


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
    `say` is told what is trained, `observe` how it goes.
    """

    recipes: Path
    folder: Path
    setting: str
    seed: int = 0
    device: torch.device = torch.device("cpu")
    command: str = ""
    say: Callable[[str], None] = lambda text: None
    observe: Observer | None = None

    def open(self, name: str) -> Network:
        """The network `name` on the device, from its checkpoint `folder`/NAME-SETTING-seedN.

        What is there already is not trained again, and a training that was killed goes on. Raises `CasemateError` for
        a name without a recipe, and where the checkpoint there is not of this very recipe and seed.
        """
        full_name = f"{name}-{self.setting}"
        path = self.recipes / f"{full_name}.yaml"
        if not path.is_file():
            known = sorted(path.stem for path in self.recipes.glob(f"*-{self.setting}.yaml"))
            raise CasemateError(f"there is no recipe {full_name} in {self.recipes}; known are {', '.join(known)}")
        recipe = recipes.read(path)
        recipe = recipe.model_copy(update={"seed": recipe.seed + self.seed})
        folder = self.folder / f"{full_name}-seed{recipe.seed}"
        absent = finished(folder, recipe, resume=True) is None
        if absent:
            # Lightning takes seconds to import, and what is trained already is opened without it.
            from casemate.training.train import Settings, train

            self.say(f"training {full_name} into {folder}")
            settings = Settings(accelerator=self.device.type, resume=True, command=self.command)
            train(recipe, folder, settings, observe=self.observe)
        model, card = checkpoint.load(folder)
        return Network(full_name, model.to(self.device), recipe, card, folder, absent)
