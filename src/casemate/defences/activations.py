"""Other layers in the place of a network's activations."""

import copy
from collections.abc import Callable

from torch import nn

from casemate.errors import CasemateError

Kinds = type[nn.Module] | tuple[type[nn.Module], ...]

# Those that torch applies to each value by itself.
ACTIVATIONS = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.Mish, nn.PReLU, nn.ReLU, nn.SELU, nn.SiLU,
    nn.Sigmoid, nn.Softplus, nn.Tanh,
)  # fmt: skip


def replaced(network: nn.Module, kinds: Kinds, build: Callable[[nn.Module, int], nn.Module]) -> nn.Module:
    """A copy of `network` with `build(activation, place)` in the place of every module that is one of `kinds`.

    Places are counted from 0 in the order of `network.modules()`; a module that stands in several is replaced in each.
    What is built takes over the training mode. Raises `CasemateError` where there is none: a function called in a
    forward pass cannot be seen.
    """
    # One level more, so that a network which is itself an activation is replaced like any other.
    holder = nn.ModuleList([copy.deepcopy(network)])
    names = [name for name, module in holder.named_modules(remove_duplicate=False) if isinstance(module, kinds)]
    if not names:
        raise CasemateError(
            f"{type(network).__name__} has no activation to replace: only modules such as nn.ReLU() can be seen, "
            "not functions such as torch.relu"
        )
    found = [holder.get_submodule(name) for name in names]
    for place, (name, activation) in enumerate(zip(names, found, strict=True)):
        parent, _, child = name.rpartition(".")
        setattr(holder.get_submodule(parent), child, build(activation, place).train(activation.training))
    return holder[0]
