"""The folder of a training run: whether it may be used, and by whom."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from casemate import checkpoint, files
from casemate.errors import CasemateError
from casemate.training.log import LOG
from casemate.training.recipe import Recipe, from_dict
from casemate.training.state import STATE


def finished(folder: Path, recipe: Recipe, *, resume: bool) -> dict[str, Any] | None:
    """The card of a run by `recipe` that is done, None where there is something to train.

    Raises `CasemateError` for a folder that holds a run already where that is not to be resumed, or is another one.
    """
    used = [name for name in (checkpoint.CARD, STATE) if (folder / name).exists()]
    if used and not resume:
        raise CasemateError(f"{folder} holds a run already ({used[0]}): name another folder, or add --resume")
    if checkpoint.CARD not in used:
        return None
    card = checkpoint.load(folder)[1]
    if from_dict(card.get("recipe"), f"the recipe of {folder}") != recipe:
        raise CasemateError(f"{folder} holds a checkpoint of another recipe: name another folder")
    return card


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """No other process trains into `folder` while this is open; what a killed one left unfinished is removed."""
    with files.claimed(folder):
        for name in (STATE, LOG, checkpoint.CARD, checkpoint.WEIGHTS):
            for left in folder.glob(f".{name}.*.tmp"):
                left.unlink(missing_ok=True)
        yield
