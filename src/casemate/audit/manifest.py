"""What a run is: its model, data, threat model, attacks, seed and precision, as `run.json` records them."""

import dataclasses
import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from casemate import checkpoint
from casemate._version import __version__
from casemate.audit.cascade import Stage
from casemate.audit.proofs import Proof
from casemate.audit.remedies.plan import Plan
from casemate.data import Dataset
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.threat import Threat

FORMAT = 4
# What the verdicts depend on: a resumed audit must agree with the first one in all of it.
_DECISIVE = {
    "format": "format",
    "model.sha256": "model fingerprint",
    "data.n": "number of images",
    "data.fingerprint": "data fingerprint",
    "threat": "threat model",
    "seed": "seed",
    "attacks": "attacks",
    "certifiers": "certifiers",
    "remedies": "remedies",
    "precision": "search precision",
    "draws": "number of draws for a gradient",
}


def describe_run(
    engine: Engine,
    data: Dataset,
    threat: Threat,
    stages: Sequence[Stage],
    proofs: Sequence[tuple[Proof, str | None]],
    plan: Plan,
    *,
    seed: int,
    preset: str | None,
    batch_size: int | None,
    spec: str,
    weights: str | None,
    sha256: str,
    card: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """The content of `run.json`; the engine must know its search precision already.

    `proofs` says of each whether it runs, None, or why not. `sha256` is that of the classifier as it was given, before
    any remedy of the `plan`.
    """
    return {
        "format": FORMAT,
        "casemate_version": __version__,
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
        "platform": platform.platform(),
        "command": command,
        "created": now(),
        "model": {
            "spec": spec,
            "weights": weights,
            "sha256": sha256,
            "card": dict(card),
        },
        "data": {
            "name": data.name,
            "split": data.split,
            "n": len(data),
            "limit": len(data),
            "fingerprint": data.fingerprint,
            "classes": list(data.classes),
            "shape": list(data.images.shape[1:]),
        },
        "threat": str(threat),
        "seed": seed,
        "preset": preset,
        "attacks": [
            {"name": stage.name, "settings": settings(stage.attack), "within": stage.within} for stage in stages
        ],
        "certifiers": [
            {
                "name": proof.name,
                "early": proof.early,
                "settings": settings(proof.certifier),
                "unusable": reason,
            }
            for proof, reason in proofs
        ],
        "remedies": plan.as_json(),
        "precision": engine.search_precision,
        "draws": engine.draws if engine.stochastic else None,
        "batch_size": batch_size,
        "device": str(device_of(engine.model)),
        "threads": torch.get_num_threads(),
    }


def settings(attack: object) -> Any:
    """The settings of an attack as JSON values, with those of the attacks inside it; a network by its fingerprint."""
    if isinstance(attack, nn.Module):
        return {"kind": type(attack).__qualname__, "sha256": checkpoint.fingerprint(attack)}
    if dataclasses.is_dataclass(attack) and not isinstance(attack, type):
        values = {field.name: settings(getattr(attack, field.name)) for field in dataclasses.fields(attack)}
        return {"kind": type(attack).__qualname__, **values}
    if isinstance(attack, (list, tuple)):
        return [settings(value) for value in attack]
    if attack is None or isinstance(attack, (bool, int, float, str)):
        return attack
    # Not by repr, which may hold an address that differs from one process to the next.
    return f"{type(attack).__module__}.{getattr(attack, '__qualname__', type(attack).__qualname__)}"


def refuse_difference(earlier: Mapping[str, Any], manifest: Mapping[str, Any], run: Path) -> None:
    """Raise `CasemateError` naming the first thing that the verdicts depend on and in which the two differ."""
    for path, what in _DECISIVE.items():
        there, here = _at(earlier, path), _at(manifest, path)
        if _json(there) == _json(here):
            continue
        if path in ("attacks", "certifiers"):
            there, here = _first_difference(_json(there), _json(here))
        raise CasemateError(
            f"{run} cannot be resumed: its {what} is {_short(there)} and that of this audit is {_short(here)}; "
            "repeat the settings of the run or choose another folder"
        )


def device_of(model: nn.Module) -> torch.device:
    """Where the classifier computes: where its weights are, or the CPU where it has none."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _first_difference(there: list[Any], here: list[Any]) -> tuple[Any, Any]:
    """The first attack in which two cascades differ; "none" stands for one that only the other has."""
    for place in range(max(len(there), len(here))):
        pair = [attacks[place] if place < len(attacks) else "none" for attacks in (there, here)]
        if pair[0] != pair[1]:
            break
    return pair[0], pair[1]


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _short(value: Any) -> str:
    if isinstance(value, dict) and "name" in value:
        return f"{value['name']} {json.dumps(value.get('settings'))}"
    return str(value)[:80]
