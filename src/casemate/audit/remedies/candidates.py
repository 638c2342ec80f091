"""Which ways to a gradient a classifier offers, by what its modules are called with on a few images."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from casemate import rng
from casemate.audit.remedies.undeclared import declares_surrogate
from casemate.audit.remedies.ways import Nearby, Own, Plain, Through, UpTo, Way
from casemate.gradients import evaluating
from casemate.threat import Images, Linf, Threat

# A layer's gradient is wrong where differences over a step of this share of its input's deviation say otherwise by
# more than this share of themselves; so far off is no rounding.
STEP, WRONG = 0.1, 0.3


@dataclass(eq=False)
class _Call:
    """What a submodule was last called with, the very tensor and its values then, and what it answered."""

    first_input: Tensor
    values: Tensor
    output: object
    order: int


def ways_of(model: nn.Module, x: Images, threat: Threat) -> list[Way]:
    """The ways to try on `model`, cheapest first, its own among them; `x` [n, C, H, W] are a few of its images.

    Up to every submodule that is called with an image that something before it has touched, the outermost first;
    through all layers that keep the shape of their input and whose gradient there is wrong; averaged over points
    nearby.
    """
    ways: list[Way] = [Own()]
    if declares_surrogate(model):
        ways.append(Plain())
    keys = rng.image_keys(0, torch.arange(len(x), device=x.device))
    with evaluating(model), torch.no_grad(), _drawing(keys):
        answer = model(x.clone())
        shown = x.clone()
        calls = _calls(model, shown)
    ways += _up_to(calls, shown, answer)
    wrong = tuple(name for name, call in calls.items() if _is_wrong(model.get_submodule(name), call, keys))
    if wrong:
        ways.append(Through(wrong))
    ways.append(Nearby(linf_radius(threat, x) / 4))
    return ways


def linf_radius(threat: Threat, x: Images) -> float:
    """How far a pixel value moves in this threat model where all move alike."""
    if isinstance(threat, Linf):
        return threat.eps
    offset = torch.ones_like(x[:1])
    return float(threat.eps / threat.measure(x[:1] + offset, x[:1])[0])


@contextmanager
def _drawing(keys: rng.Keys) -> Iterator[None]:
    """The same draws every time, those of torch's global generator too, which is left as it was."""
    with rng.drawing_from(keys), torch.random.fork_rng(devices=[keys.device] if keys.is_cuda else []):
        torch.manual_seed(0)
        yield


def _calls(model: nn.Module, x: Images) -> dict[str, _Call]:
    found: dict[str, _Call] = {}
    handles = []
    for name, module in model.named_modules():
        if name:

            def before(module: nn.Module, inputs: tuple[object, ...], name: str = name) -> None:
                if inputs and isinstance(inputs[0], Tensor):
                    # An activation that writes into its input leaves nothing of what it was called with.
                    values = inputs[0].clone() if getattr(module, "inplace", False) else inputs[0]
                    found[name] = _Call(inputs[0], values, None, len(found))

            def after(_: nn.Module, inputs: tuple[object, ...], output: object, name: str = name) -> None:
                if name in found:
                    found[name].output = output

            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _up_to(calls: dict[str, _Call], x: Images, answer: Tensor) -> Iterator[Way]:
    """One for each image that something before it has touched: the outermost module that is called with it."""
    known: list[Tensor] = [x]
    # A module's name comes before those inside it, and it is called with the same tensor as the first of them.
    for name in sorted(calls, key=lambda name: (name.count("."), calls[name].order)):
        tensor, output = calls[name].first_input, calls[name].output
        if tensor.shape != x.shape or not tensor.is_floating_point() or any(tensor is other for other in known):
            continue
        known.append(tensor)
        yield UpTo(name, whole=isinstance(output, Tensor) and output.shape == answer.shape)


def _is_wrong(module: nn.Module, call: _Call, keys: rng.Keys) -> bool:
    """Whether this layer keeps the shape of its input, has no others inside, and its gradient misleads there."""
    source, output = call.values, call.output
    if any(True for _ in module.children()) or not isinstance(output, Tensor) or output.shape != source.shape:
        return False
    if not source.is_floating_point() or source.ndim < 2:
        return False
    direction = rng.normal(rng.fold(keys, "direction"), source.shape[1:]).to(source)
    weights = rng.normal(rng.fold(keys, "weights"), source.shape[1:]).to(source)
    step = STEP * float(source.detach().std())
    if not step > 0:
        return False

    def value(at: Tensor) -> Tensor:
        with _drawing(keys):
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
            return True
    promised = (gradient * direction).flatten(1).sum(dim=1)
    largest = torch.maximum(difference.abs(), promised.abs()).clamp(min=torch.finfo(source.dtype).tiny)
    return float(((difference - promised).abs() / largest).median()) > WRONG
