"""Checkpoints: a folder of `model.safetensors` and `card.json`; and classifiers opened from a user's own code.

Nothing here unpickles: weights are safetensors, or a `.pt`/`.pth` file opened with `weights_only=True`.
"""

import contextlib
import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from casemate import files, models
from casemate._version import __version__
from casemate.errors import CasemateError, first_line
from casemate.models.from_onnx import read_network
from casemate.user_code import guarded, made_by

FORMAT = "casemate-checkpoint-1"
WEIGHTS = "model.safetensors"
CARD = "card.json"
_FORMS = "a checkpoint folder, an ONNX file, path/to/file.py:callable or package.module:callable"


@dataclass(frozen=True)
class OpenedModel:
    """A classifier in eval mode; `name` is how it was asked for, `sha256` its `fingerprint`, `card` {} if foreign."""

    model: nn.Module
    name: str
    sha256: str
    card: dict[str, Any]


def save(folder: Path, model: nn.Module, card: Mapping[str, Any]) -> None:
    """Write a checkpoint: the weights of `model`, then `card` with format, versions and the SHA-256 of the weights.

    `card` needs "architecture" (a name in `models.ARCHITECTURES`) and "arguments" (a dict); other keys are free as long
    as they fit into JSON. Raises `CasemateError` where the model is not of that architecture, holds weights that are
    not finite, or the files cannot be written; what stood in the folder before is then still there.
    """
    state = _state(model)
    _refuse_mismatch(_state(_blank(card, "the card")), state, "the model")
    _refuse_not_finite(model, "the model")
    weights = safetensors.torch.save(
        {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    )
    full = {
        **card,
        "format": FORMAT,
        "casemate_version": __version__,
        "torch_version": str(torch.__version__),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    try:
        text = json.dumps(full, indent=2) + "\n"
    except (TypeError, ValueError) as error:
        raise CasemateError(f"the card of {folder} does not fit into JSON: {error}") from None
    # Both files are written in full before the first is renamed, so a full disk leaves the old pair together.
    with files.replacing(folder / CARD) as new_card, files.replacing(folder / WEIGHTS) as new_weights:
        new_weights.write_bytes(weights)
        new_card.write_text(text, encoding="utf-8")


def load(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The classifier of a checkpoint, in eval mode on the CPU with the very bits that were saved, and its card.

    Raises `CasemateError` for files that are absent, damaged or changed since they were saved, weights that do not fit
    the architecture on the card, and weights that are not finite.
    """
    card = files.read_json(folder / CARD, f"the checkpoint {folder}")
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise CasemateError(f"{folder / CARD} is not a checkpoint card of this version: it needs format {FORMAT!r}")
    for key in ("architecture", "arguments", "sha256"):
        if key not in card:
            raise CasemateError(f"{folder / CARD} lacks {key!r}: it is not a whole checkpoint card")
    model = _blank(card, str(folder / CARD))
    # Read once: the bytes that are checked are the bytes that are used.
    weights = _read(folder / WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != card.get("sha256"):
        raise CasemateError(
            f"{folder / WEIGHTS} does not match the SHA-256 on its card: one of the two was changed or damaged; "
            "fetch or train the checkpoint again"
        )
    state = _from_safetensors(weights, folder / WEIGHTS)
    _refuse_mismatch(_state(model), state, str(folder / WEIGHTS))
    model.load_state_dict(state, assign=True)
    _refuse_not_finite(model, str(folder / WEIGHTS))
    return model.eval(), card


def open_model(spec: str, *, weights: Path | None = None) -> OpenedModel:
    """The classifier that `spec` names: a checkpoint folder, an ONNX file, or code that makes one.

    An ONNX file is one that `read_network` knows. Code is `path/to/file.py:callable` or `package.module:callable`.

    The callable takes no argument and returns the `nn.Module`; its code runs with its own folder (for a module, the
    working directory) importable and what it prints on standard error. `weights` is its state dict: .safetensors, or
    .pt/.pth opened with `weights_only=True`. The model keeps the precision and the device it came with.

    Raises `CasemateError` for everything that cannot be opened, code that fails, weights that do not match the model
    name by name and shape by shape, and weights that are not finite.
    """
    if spec and Path(spec).is_dir():
        if weights is not None:
            raise CasemateError(f"{spec} is a checkpoint folder with weights of its own: leave out {weights}")
        model, card = load(Path(spec))
        return OpenedModel(model, spec, fingerprint(model), card)
    if spec.lower().endswith(".onnx"):
        if weights is not None:
            raise CasemateError(f"{spec} has weights of its own: leave out {weights}")
        model, _ = read_network(Path(spec))
        _refuse_not_finite(model, spec)
        return OpenedModel(model, spec, fingerprint(model), {})
    source, colon, attribute = spec.rpartition(":")
    if not colon or not source or not attribute.isidentifier():
        hint = "; a weights file needs the code of its network: give both" if Path(spec).is_file() else ""
        raise CasemateError(f"{spec!r} does not name a model: give {_FORMS}{hint}")
    model = made_by(spec, source, attribute)
    blank = _state(model)
    if weights is not None:
        state = _read_weights(weights)
        _refuse_mismatch(blank, state, str(weights))
        guarded(spec, lambda: model.load_state_dict(state))
    _refuse_not_finite(model, spec if weights is None else str(weights))
    return OpenedModel(model.eval(), spec, fingerprint(model), {})


def fingerprint(model: nn.Module) -> str:
    """Hex SHA-256 over the state dict: names, dtypes, shapes and bytes of all parameters and buffers, sorted by name.

    Equal for the same weights however they were opened and wherever they lie; says nothing about the model's code.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_state(model).items()):
        flat = tensor.cpu().contiguous().flatten().view(torch.uint8)
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def _blank(card: Mapping[str, Any], what: str) -> nn.Module:
    """The network a card describes, on the meta device: shapes only, so that a hostile card cannot fill the memory."""
    architecture, arguments = card.get("architecture"), card.get("arguments")
    if not isinstance(architecture, str) or not isinstance(arguments, dict):
        raise CasemateError(f'{what} needs "architecture" (a name) and "arguments" (a dictionary)')
    try:
        with torch.device("meta"):
            return models.build(architecture, **arguments)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise CasemateError(f"{what} describes a network that cannot be built: {first_line(error)}") from None


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, all of it plain tensors; raises `CasemateError` naming what is not (packed, sparse, lazy)."""
    state = {}
    for name, value in model.state_dict().items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided
        if not plain or nn.parameter.is_lazy(value):
            raise CasemateError(f"{name!r} of the model is not a plain tensor with a fixed shape; Casemate needs one")
        state[name] = value.detach()
    return state


def _refuse_mismatch(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    missing = next((name for name in expected if name not in found), None)
    unexpected = next((name for name in sorted(found) if name not in expected), None)
    if missing is not None:
        also = "" if unexpected is None else f" and has {unexpected!r}, which the architecture does not know"
        raise CasemateError(f"{what} lacks {missing!r}{also}: these weights belong to another network")
    if unexpected is not None:
        raise CasemateError(
            f"{what} has {unexpected!r}, which the architecture does not know: these weights belong to another network"
        )
    for name, tensor in expected.items():
        theirs = found[name]
        if theirs.shape != tensor.shape or theirs.is_floating_point() != tensor.is_floating_point():
            raise CasemateError(
                f"{name!r} of {what} is {_kind(theirs)} where the architecture has {_kind(tensor)}: "
                "these weights belong to another network"
            )


def _refuse_not_finite(model: nn.Module, what: str) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise CasemateError(f"{what} has no values in {name!r}, which lies on the meta device; give it weights")
        # A buffer may be an attention mask, which holds -inf; nothing has a use for the others.
        bad = ~tensor.isfinite() if isinstance(tensor, nn.Parameter) else tensor.isnan() | tensor.isposinf()
        if bad.any():
            raise CasemateError(f"{what} holds NaN or infinite values in {name!r}; use weights from before that")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CasemateError(f"{path} is absent: the model needs its weights") from None
    except OSError as error:
        raise CasemateError(f"{path} cannot be read: {error.strerror or error}") from None


def _from_safetensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CasemateError(f"{path} is not a whole safetensors file: {first_line(error)}") from None


def _read_weights(path: Path) -> dict[str, Tensor]:
    suffix = path.suffix.lower()
    if suffix not in (".safetensors", ".pt", ".pth"):
        raise CasemateError(f"{path}: weights must be a .safetensors, .pt or .pth file")
    if suffix == ".safetensors":
        return _from_safetensors(_read(path), path)
    if not path.is_file():
        raise CasemateError(f"{path} is absent: the model needs its weights")
    if _is_torchscript(path):
        raise CasemateError(f"{path} is a TorchScript archive, which is code; save model.state_dict() instead")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load warns about some pickles before it refuses them.
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CasemateError(
            f"{path} is damaged, or holds Python objects or code besides tensors, which are never opened; "
            "save model.state_dict() instead"
        ) from None
    except Exception as error:  # torch.load lets through whatever a damaged file provokes.
        raise CasemateError(f"{path} cannot be read: {first_line(error)}") from None
    if not isinstance(state, dict):
        raise CasemateError(f"{path} holds a {type(state).__name__}, not a state dict; save model.state_dict() instead")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CasemateError(f"{path} is not a state dict (see {name!r}); save model.state_dict() alone instead")
    return state


def _is_torchscript(path: Path) -> bool:
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
    return False


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
