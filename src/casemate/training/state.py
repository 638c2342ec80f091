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
from casemate.precision import Precision
from casemate.training.averaging import Average
from casemate.training.guard import Check
from casemate.training.recipe import Recipe

STATE = "state.safetensors"

Weights = dict[str, Tensor]


@dataclass
class Progress:
    """How far a run is: optimiser steps done, the time they took, and the checks made.

    `seconds` are of the wall clock; `cpu_seconds` of the first process on all its cores, which other work on the
    machine hardly adds to. `precision` is what the search runs in, once that is known.
    """

    number: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    checks: list[Check] = field(default_factory=list)
    precision: Precision = "auto"


def save(
    path: Path,
    *,
    recipe: Recipe,
    progress: Progress,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    best: Weights | None,
) -> None:
    """Write the state of a run by `recipe`."""
    tensors = _prefixed("model", model.state_dict())
    if average is not None:
        tensors |= _prefixed("average", average.model.state_dict())
    if best is not None:
        tensors |= _prefixed("best", best)
    for place, entries in optimiser.state_dict()["state"].items():
        tensors |= _prefixed(
            f"optimiser.{place}", {name: value for name, value in entries.items() if value is not None}
        )
    metadata = {"recipe": recipe.model_dump_json(), "progress": json.dumps(asdict(progress))}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    files.write_bytes(path, safetensors.torch.save(contiguous, metadata))


def load(
    path: Path,
    *,
    recipe: Recipe,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
) -> tuple[Progress, Weights | None]:
    """Restore what `save` wrote, in place; returns how far the run was and its best weights.

    Raises `CasemateError` where the file is damaged or belongs to another recipe.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if Recipe.model_validate_json(metadata["recipe"]) == recipe:
            model.load_state_dict(_below("model", tensors))
            if average is not None:
                average.model.load_state_dict(_below("average", tensors))
            _restore(optimiser, _below("optimiser", tensors))
            return _progress(metadata["progress"]), _below("best", tensors) or None
    except (OSError, safetensors.SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CasemateError(f"{path} cannot be read ({reason}): delete it to train from the beginning") from None
    raise CasemateError(f"{path} belongs to another recipe: resume with that one, or name another folder")


def _progress(text: str) -> Progress:
    content: dict[str, Any] = json.loads(text)
    content["checks"] = [Check(**check) for check in content["checks"]]
    return Progress(**content)


def _restore(optimiser: torch.optim.Optimizer, tensors: Weights) -> None:
    state: dict[int, Weights] = {}
    for name, tensor in tensors.items():
        number, entry = name.split(".", 1)
        state.setdefault(int(number), {})[entry] = tensor
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for place, entries in state.items():
        for entry, tensor in entries.items():
            # The file holds rows; the steps are faster, and surely the same, in the layout of the weights.
            if tensor.ndim and tensor.shape == parameters[place].shape:
                entries[entry] = torch.empty_like(parameters[place]).copy_(tensor)
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _prefixed(prefix: str, tensors: Weights) -> Weights:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Weights) -> Weights:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
