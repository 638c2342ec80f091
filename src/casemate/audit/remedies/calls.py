"""What the submodules of a classifier are called with on a few images, and what they answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from casemate import rng
from casemate.threat import Images


@dataclass(eq=False)
class Call:
    """What a submodule was last called with, the very tensor and its values then, and what it answered."""

    first_input: Tensor
    values: Tensor
    output: object
    order: int

    @property
    def answer(self) -> Tensor:
        """The output, of a submodule that answers with a tensor."""
        if not isinstance(self.output, Tensor):
            raise TypeError(f"a submodule answers with {type(self.output).__name__}, not with a tensor")
        return self.output


def calls_of(model: nn.Module, x: Images) -> tuple[Tensor, dict[str, Call]]:
    """What `model` answers x, and the call of every submodule that was called with a tensor, by name."""
    found: dict[str, Call] = {}
    handles = []
    for name, module in model.named_modules():
        if name:

            def before(module: nn.Module, inputs: tuple[object, ...], name: str = name) -> None:
                if inputs and isinstance(inputs[0], Tensor):
                    # An activation that writes into its input leaves nothing of what it was called with.
                    values = inputs[0].clone() if getattr(module, "inplace", False) else inputs[0]
                    found[name] = Call(inputs[0], values, None, len(found))

            def after(_: nn.Module, inputs: tuple[object, ...], output: object, name: str = name) -> None:
                if name in found:
                    found[name].output = output

            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        answer: Tensor = model(x)
    finally:
        for handle in handles:
            handle.remove()
    return answer, found


@contextmanager
def drawing(keys: rng.Keys) -> Iterator[None]:
    """The same draws every time, those of torch's global generator too, which is left as it was."""
    with rng.drawing_from(keys), torch.random.fork_rng(devices=[keys.device] if keys.is_cuda else []):
        torch.manual_seed(0)
        yield
