"""What cannot be trained, found before the first epoch rather than in it, and what has stopped training."""

from torch import nn

from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.training.batches import Batches


def refuse_misfit(model: nn.Module, batches: Batches, n_classes: int) -> None:
    """Raise `CasemateError` where the images are of the wrong size for `model`, or it has too few outputs."""
    recipe, x = batches.recipe, batches.held.x[:2]
    try:
        logits = Engine(model).logits(x)
    except RuntimeError as error:
        raise CasemateError(
            f"{recipe.model.name} does not take the {list(x.shape[1:])} images of {recipe.data}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    if logits.shape[1] < n_classes:
        raise CasemateError(
            f"{recipe.model.name} has {logits.shape[1]} outputs and {recipe.data} {n_classes} classes: "
            f"add n_classes: {n_classes} to the model's arguments"
        )


def diverged(number: int) -> CasemateError:
    return CasemateError(f"training diverged by step {number}: lower the learning rate of the recipe")
