"""Filters that look at one pixel and compare it with a threshold: what adversarial training in linf may come to.

relu(a v - b) of a single pixel v lets nothing through below b / a, so that no change of linf eps to a pixel below
b / a - eps is seen behind it (Madry et al. 2018, appendix E). Trained at eps, one expects thresholds of eps, below
which black pixels can be pushed, and of 1 - eps, above which white ones can.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor, nn

from casemate.errors import CasemateError
from casemate.threat import Images

# A weight counts where it is at least this share of the largest of its filter, in absolute value.
COUNTS = 0.1
# Images at a time: bounds the memory of the first layer's answers.
AT_A_TIME = 250


@dataclass(frozen=True, eq=False)
class Filters:
    """Statistics of the filters of one layer, each [filters].

    `largest` is the weight of largest absolute value; `n_weights` how many are at least `COUNTS` of it, 0 where all
    are 0; `threshold`, -bias / `largest`, is the value, in the units of the layer's input, at which a filter of that
    one weight begins to answer (NaN without a weight).
    """

    largest: Float64[Tensor, "filters"]
    n_weights: Int64[Tensor, "filters"]
    threshold: Float64[Tensor, "filters"]

    @property
    def one_weight(self) -> Bool[Tensor, "filters"]:
        return self.n_weights == 1


def filters(layer: nn.Conv2d) -> Filters:
    """The statistics of `layer`; a layer without biases has biases of 0."""
    weight = layer.weight.detach().double().flatten(1)
    bias = torch.zeros_like(weight[:, 0]) if layer.bias is None else layer.bias.detach().double()
    size = weight.abs()
    place = size.argmax(dim=1, keepdim=True)
    largest = weight.gather(1, place).squeeze(1)
    counted = (size >= COUNTS * size.gather(1, place)) & (size > 0)
    threshold = torch.where(largest == 0, torch.nan, -bias / largest)
    return Filters(largest, counted.sum(dim=1), threshold)


def near(threshold: Float64[Tensor, "filters"], eps: float, within: float) -> Bool[Tensor, "filters"]:
    """Whether each is at most `within` from eps or from 1 - eps."""
    return torch.minimum((threshold - eps).abs(), (threshold - (1 - eps)).abs()) <= within


def share_small(weight: Tensor) -> float:
    """The share of weights below `COUNTS` of the largest of all, in absolute value: how sparse a layer is."""
    size = weight.detach().abs()
    return (size < COUNTS * size.max()).double().mean().item()


def first_layer(model: nn.Module) -> nn.Conv2d:
    """The first layer of `model` that has weights; raises `CasemateError` unless it is a `Conv2d`."""
    first = next((module for module in model.modules() if any(True for _ in module.parameters(recurse=False))), None)
    if isinstance(first, nn.Conv2d):
        return first
    kind = "none" if first is None else f"a {type(first).__name__}"
    raise CasemateError(f"the first layer with weights must be a Conv2d to have filters, not {kind}")


def weighted_layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """The convolutions and linear layers of `model`, in the order in which it holds them."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a ReLU after each filter lets by over all positions in some images, each [filters].

    `fires` is the share of positions at which that is above 0: a filter of share 0 is dead on these images. `spread` is
    its standard deviation: what a filter of little spread says hardly depends on what it sees.
    """

    fires: Float64[Tensor, "filters"]
    spread: Float64[Tensor, "filters"]


@torch.no_grad()
def answers(model: nn.Module, layer: nn.Conv2d, x: Images) -> Answers:
    """Those of `layer`, which is one of `model`, to the images x [n, ...]."""
    # The number of positions that fire, the sum and the sum of squares.
    sums = torch.zeros(3, layer.out_channels, dtype=torch.float64, device=x.device)
    n_positions = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], answer: Tensor) -> None:
        nonlocal n_positions
        let_by = answer.double().clamp(min=0)
        for total, values in zip(sums, (let_by > 0, let_by, let_by.square()), strict=True):
            total += values.sum(dim=(0, 2, 3))
        n_positions += answer[:, 0].numel()

    handle = layer.register_forward_hook(add)
    try:
        for part in x.split(AT_A_TIME):
            model(part)
    finally:
        handle.remove()
    fires, mean, square = sums / n_positions
    return Answers(fires, (square - mean**2).clamp(min=0).sqrt())
