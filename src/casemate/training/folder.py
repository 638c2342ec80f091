"""The folder of a training run: whether it may be used, and by whom."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from casemate import checkpoint
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
    """No other process trains into `folder` while this is open; what a killed one left unfinished is removed.

    The system releases the claim of a process that dies.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CasemateError(f"cannot write {folder}: {error.strerror or error}; choose another folder") from None
    try:
        _lock(handle, folder)
        for name in (STATE, LOG, checkpoint.CARD, checkpoint.WEIGHTS):
            for left in folder.glob(f".{name}.*.tmp"):
                left.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows, where a folder cannot be opened so either
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CasemateError(f"another process is training into {folder}: wait for it, or name another folder") from None
    except OSError:
        return  # a network disk without locks
