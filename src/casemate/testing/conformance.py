"""What a conformance suite says, and how it finds out whether something was left behind."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn


class ConformanceError(AssertionError):
    """A promise that was broken; the message is one sentence that names it."""


def require(holds: bool, sentence: str) -> None:
    """Raise `ConformanceError` with `sentence` unless `holds`."""
    if not holds:
        raise ConformanceError(sentence)


@contextlib.contextmanager
def running(who: str) -> Iterator[None]:
    """Turns an exception of the block, which should raise none, into a sentence about `who`."""
    try:
        yield
    except ConformanceError:
        raise
    except Exception as error:
        raise ConformanceError(f"{who} raised {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def refusing(offence: str) -> Iterator[None]:
    """Requires a `ValueError` (such as `CasemateError`) with a message from the block."""
    cause: Exception | None
    try:
        yield
    except ValueError as error:
        require(bool(str(error).strip()), f"{offence} and raised {type(error).__name__} without a message")
        return
    except Exception as error:
        outcome, cause = f"raised {type(error).__name__}", error
    else:
        outcome, cause = "went on", None
    raise ConformanceError(f"{offence} and {outcome}: raise a ValueError that says so") from cause


@contextlib.contextmanager
def leaving_no_trace(who: str, model: nn.Module, **arguments: Tensor) -> Iterator[None]:
    """Requires that the block changes nothing about the model, the tensors and the global random states."""
    before = _trace(model) | _global_trace()
    copies = {name: tensor.clone() for name, tensor in arguments.items()}
    yield
    after = _trace(model) | _global_trace()
    for what, state in before.items():
        require(after[what] == state, f"{who} changed {what}")
    for name, copy in copies.items():
        require(torch.equal(arguments[name], copy), f"{who} wrote into {name}, which belongs to the caller")


def _trace(model: nn.Module) -> dict[str, object]:
    modules = list(model.modules())
    return {
        "the weights or buffers of the model": {name: _bytes(value) for name, value in model.state_dict().items()},
        "the training mode of the model": [module.training for module in modules],
        "requires_grad of the weights": [parameter.requires_grad for parameter in model.parameters()],
        "the .grad of the weights": [
            None if parameter.grad is None else _bytes(parameter.grad) for parameter in model.parameters()
        ],
        "the hooks of the model": [
            {name: len(value) for name, value in vars(module).items() if name.endswith("_hooks")} for module in modules
        ],
        "the attributes of the model": [sorted(vars(module)) for module in modules],
    }


def _global_trace() -> dict[str, object]:
    _, numbers, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch's global random state (draw from the keys)": [_bytes(state) for state in (torch.get_rng_state(), *cuda)],
        "numpy's global random state (draw from the keys)": (np.asarray(numbers).tobytes(), *rest),
        "whether torch records gradients": torch.is_grad_enabled(),
    }


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
