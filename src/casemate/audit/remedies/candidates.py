"""Which ways to a gradient a classifier offers, by what its modules are called with on a few images."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from casemate import rng
from casemate.audit.remedies.calls import Call, calls_of, drawing
from casemate.audit.remedies.imitate import learned
from casemate.audit.remedies.radius import linf_radius
from casemate.audit.remedies.undeclared import declares_surrogate
from casemate.audit.remedies.ways import Nearby, Own, Plain, Through, UpTo, Way
from casemate.gradients import evaluating
from casemate.threat import Images, Threat

# A layer's gradient is wrong where differences over a step of this share of its input's deviation say otherwise by
# more than this share of themselves; so far off is no rounding.
STEP, WRONG = 0.1, 0.3


def ways_of(model: nn.Module, x: Images, threat: Threat, seed: int) -> list[Way]:
    """The ways to try on `model`, cheapest first, its own among them; `x` [n, C, H, W] are a few of its images.

    Up to every submodule that is called with an image that something before it has touched, the outermost first;
    through all layers that keep the shape of their input and whose gradient there is wrong; through networks that learn
    to answer as the layers with a wrong gradient do; averaged over points nearby.
    """
    ways: list[Way] = [Own()]
    if declares_surrogate(model):
        ways.append(Plain())
    keys = rng.image_keys(0, torch.arange(len(x), device=x.device))
    shown = x.clone()
    with evaluating(model), torch.no_grad(), drawing(keys):
        answer, calls = calls_of(model, shown)
    ways += _up_to(calls, shown, answer)
    wrong = _wrong(model, calls, keys)
    if same_shape := tuple(name for name in wrong if calls[name].values.shape == calls[name].answer.shape):
        ways.append(Through(same_shape))
    if wrong:
        ways += learned(model, wrong, x, threat, seed)
    ways.append(Nearby(linf_radius(threat, x) / 4))
    return ways


def _up_to(calls: dict[str, Call], x: Images, answer: Tensor) -> Iterator[Way]:
    """One for each image that something before it has touched: the outermost module that is called with it."""
    known: list[Tensor] = [x]
    # A module's name comes before those inside it, and it is called with the same tensor as the first of them.
    for name in sorted(calls, key=lambda name: (name.count("."), calls[name].order)):
        tensor, output = calls[name].first_input, calls[name].output
        if tensor.shape != x.shape or not tensor.is_floating_point() or any(tensor is other for other in known):
            continue
        known.append(tensor)
        yield UpTo(name, whole=isinstance(output, Tensor) and output.shape == answer.shape)


def _wrong(model: nn.Module, calls: dict[str, Call], keys: rng.Keys) -> list[str]:
    """The submodules whose own gradients mislead where they are called, and none that has another of them inside."""
    found: list[str] = []
    for name in sorted(calls, key=lambda name: (-name.count("."), calls[name].order)):
        inside = f"{name}."
        if not any(other.startswith(inside) for other in found) and _is_wrong(
            model.get_submodule(name), calls[name], keys
        ):
            found.append(name)
    return sorted(found, key=lambda name: calls[name].order)


def _is_wrong(module: nn.Module, call: Call, keys: rng.Keys) -> bool:
    """Whether the gradient of this submodule misleads where it is called.

    Of one that has others inside, which the difference over a step bends too, only whether it has none.
    """
    source = call.values
    if not isinstance(call.output, Tensor) or call.output.ndim < 2 or call.output.shape[0] != source.shape[0]:
        return False
    if not source.is_floating_point() or source.ndim < 2:
        return False
    direction = rng.normal(rng.fold(keys, "direction"), source.shape[1:]).to(source)
    weights = rng.normal(rng.fold(keys, "weights"), call.output.shape[1:]).to(source)
    step = STEP * float(source.detach().std())
    if not step > 0:
        return False

    def value(at: Tensor) -> Tensor:
        with drawing(keys):
            # A copy, for an activation may write into its input.
            result: Tensor = module(at.clone())
        return (result * weights).flatten(1).sum(dim=1)

    with evaluating(module):
        try:
            with torch.no_grad():
                difference = (value(source + step * direction) - value(source - step * direction)) / (2 * step)
        except Exception:
            # It takes more than one argument, say: what cannot be called by itself is left as it is.
            return False
        leaf = source.detach().clone().requires_grad_(True)
        try:
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(value(leaf).sum(), leaf)
        except RuntimeError:
            return bool(difference.any())
    if any(True for _ in module.children()):
        return bool(difference.any()) and not bool(gradient.any())
    promised = (gradient * direction).flatten(1).sum(dim=1)
    largest = torch.maximum(difference.abs(), promised.abs()).clamp(min=torch.finfo(source.dtype).tiny)
    return float(((difference - promised).abs() / largest).median()) > WRONG
