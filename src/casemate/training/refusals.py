"""What cannot be trained, found before the first epoch rather than in it, and what has stopped training."""

import math

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


def refuse_diverged(loss: float, n_classes: int, number: int) -> None:
    """Raise `CasemateError` where the loss of step `number` says that its learning rate was far too high.

    Such weights seldom become NaN: most often every ReLU dies, and a constant answer gets ever less wrong. A loss of a
    hundred times that of guessing, log(classes), is a safe sign; the spikes that training recovers from stay below.
    """
    if not loss < 100 * math.log(max(n_classes, 2)):
        raise diverged(number)


def refuse_not_finite(model: nn.Module, number: int) -> None:
    """Raise `CasemateError` for weights, or running statistics, that are not finite after `number` steps."""
    for tensor in (*model.parameters(), *model.buffers()):
        # A buffer may be a mask, which holds -inf.
        if bool((tensor.isnan() | tensor.isposinf()).any()):
            raise diverged(number)


def diverged(number: int) -> CasemateError:
    return CasemateError(f"training diverged by step {number}: lower the learning rate of the recipe")
