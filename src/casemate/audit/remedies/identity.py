"""Stand-ins that take parts of a classifier for the identity on the way back (BPDA; Athalye et al. 2018, section 4.1).

They need no word from the classifier: what is near the identity is seen from outside, by the shapes of what its
modules are called with.
"""

from typing import Any

import torch
from torch import Tensor, nn

from casemate.losses import Logits
from casemate.threat import Images


class IdentityUpTo(nn.Module):
    """A classifier of which all that comes before its submodule `name` counts as the identity on the way back.

    The submodule is called with an image, as the defence before it has left it. Where it answers with logits,
    `whole`, they are the answer, and what comes after it is left out as well; a loop around it need not let a gradient
    through then.
    """

    def __init__(self, model: nn.Module, name: str, *, whole: bool) -> None:
        super().__init__()
        self.model, self.name, self.whole = model, name, whole

    def forward(self, x: Images) -> Logits:
        module = self.model.get_submodule(self.name)
        if self.whole:
            with torch.no_grad():
                before = last_input(self.model, module, x)
            answer: Tensor = module(_as_if(before, x))
            return answer
        handle = module.register_forward_pre_hook(lambda _, inputs: (_as_if(inputs[0], x), *inputs[1:]))
        try:
            answer = self.model(x)
        finally:
            handle.remove()
        return answer


class PassedThrough(nn.Module):
    """A classifier whose submodules called `names` count as the identity on the way back; each keeps the shape."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, x: Images) -> Logits:
        handles = [self.model.get_submodule(name).register_forward_hook(_straight_through) for name in self.names]
        try:
            answer: Tensor = self.model(x)
        finally:
            for handle in handles:
                handle.remove()
        return answer


def last_input(model: nn.Module, module: nn.Module, x: Images) -> Tensor:
    """What `module` is called with when `model` answers x, the last time it is called."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        model(x)
    finally:
        handle.remove()
    return seen[-1]


def _straight_through(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
    return _as_if(output, inputs[0])


def _as_if(value: Tensor, source: Tensor) -> Tensor:
    """`value`, with the gradient of `source`."""
    return value.detach() + (source - source.detach())
