"""Everything a killed training run needs to go on bit for bit: one safetensors file, replaced as a whole."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from casemate import files
from casemate.errors import CasemateError
from casemate.training.averaging import Average
from casemate.training.guard import Check


@dataclass
class Progress:
    """How far a run is: optimiser steps done, the time they took, and the checks made.

    `seconds` are of the wall clock; `cpu_seconds` of all cores together, which other work on the machine does not add to.
    """

    number: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    checks: list[Check] = field(default_factory=list)


def save(
    path: Path,
    *,
    recipe: str,
    progress: Progress,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    best: dict[str, Tensor] | None,
) -> None:
    """Write the state of a run; `recipe` is its JSON, which a resume must agree with."""
    tensors = _prefixed("model", model.state_dict())
    if average is not None:
        tensors |= _prefixed("average", average.model.state_dict())
    if best is not None:
        tensors |= _prefixed("best", best)
    for place, entries in optimiser.state_dict()["state"].items():
        tensors |= _prefixed(f"optimiser.{place}", {name: value for name, value in entries.items() if value is not None})
    metadata = {"recipe": recipe, "progress": json.dumps(asdict(progress))}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    files.write_bytes(path, safetensors.torch.save(contiguous, metadata))


def load(
    path: Path,
    *,
    recipe: str,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
) -> tuple[Progress, dict[str, Tensor] | None]:
    """Restore what `save` wrote, in place; returns how far the run was and its best weights.

    Raises `CasemateError` where the file is damaged or belongs to another recipe.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise CasemateError(f"{path} cannot be read ({error}): delete it to train from the beginning") from None
    if metadata["recipe"] != recipe:
        raise CasemateError(f"{path} belongs to another recipe: resume with that one, or name another folder")
    model.load_state_dict(_below("model", tensors))
    if average is not None:
        average.model.load_state_dict(_below("average", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimiser", tensors).items():
        place, entry = name.split(".", 1)
        state.setdefault(int(place), {})[entry] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    content: dict[str, Any] = json.loads(metadata["progress"])
    content["checks"] = [Check(**check) for check in content["checks"]]
    return Progress(**content), _below("best", tensors) or None


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
