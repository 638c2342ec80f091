"""A VNNLIB property of a network: a counter-example by gradient descent, or a proof by branch and bound."""

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from casemate import rng
from casemate.bounds.branching import search
from casemate.bounds.certifiers import Subject
from casemate.bounds.linear import LinearBounds
from casemate.errors import CasemateError
from casemate.threat import Linf
from casemate.vnn.vnnlib import Property

# Points the descent starts from for each case, and its steps.
N_STARTS, N_STEPS = 20, 60


@dataclass(frozen=True, eq=False)
class Answer:
    """`sat` has a counter-example, float32 inputs `x` and the outputs `y` of the network in float32."""

    verdict: Literal["sat", "unsat", "unknown", "timeout"]
    x: Tensor | None = None
    y: Tensor | None = None


def verify(model: nn.Module, shape: tuple[int, ...], prop: Property, timeout: float, *, n_steps: int = 20) -> Answer:
    """Whether some input of the property's box gives outputs that it describes, within about `timeout` seconds.

    `sat` is claimed of a float32 input that is inside the box and satisfies the property in float32; `unsat` with
    rounding accounted for, as certifiers do. A conjunction is refuted where one of its constraints alone is, so some
    that are `unsat` end as `unknown`. Raises `CasemateError` for sizes that do not fit the network.
    """
    deadline = time.monotonic() + timeout
    n_outputs = len(prop.cases[0][0][0])
    if len(prop.lower) != torch.Size(shape).numel():
        raise CasemateError(f"the property has {len(prop.lower)} inputs and the network takes {shape}")
    lower, upper = prop.lower.view(1, *shape), prop.upper.view(1, *shape)
    subject = Subject(model, lower.float())
    if subject.graph.n_classes != n_outputs:
        raise CasemateError(f"the property has {n_outputs} outputs and the network {subject.graph.n_classes}")
    for case in prop.cases:
        if (found := _attacked(model, lower, upper, case)) is not None:
            return found
    with torch.no_grad():
        box = subject.domain.between(lower, upper)
        reach = Linf(float((upper - lower).max()) / 2 or 1e-9)
        bounds = LinearBounds(subject.graph, reach, (lower + upper) / 2, box, subject.domain)
    for case in prop.cases:
        if not any(float(search(bounds, row, n_steps, deadline, offset)) > 0 for row, offset in case):
            return Answer("timeout" if time.monotonic() >= deadline else "unknown")
    return Answer("unsat")


def _attacked(model: nn.Module, lower: Tensor, upper: Tensor, case: tuple[tuple[Tensor, float], ...]) -> Answer | None:
    """A counter-example that projected sign descent finds on the largest of the constraints, if any."""
    rows = torch.stack([row for row, _ in case]).float()
    offsets = torch.tensor([offset for _, offset in case])
    # The float32 numbers inside the box; where there is none, none is claimed.
    low, high = lower.float(), upper.float()
    low = torch.where(low.double() < lower, low.nextafter(torch.tensor(torch.inf)), low)
    high = torch.where(high.double() > upper, high.nextafter(torch.tensor(-torch.inf)), high)
    if bool((low > high).any()):
        return None
    draws = rng.uniform(rng.image_keys(0, torch.arange(N_STARTS)), low.shape[1:])
    x = torch.minimum(torch.maximum(low + draws * (high - low), low), high)
    for step in range(N_STEPS):
        x = x.detach().requires_grad_()
        y = model(x)
        worst = (y @ rows.T + offsets).amax(dim=1)
        for at in (worst <= 0).nonzero().flatten().tolist():
            # Once more for this image alone and as the file states it, exactly.
            image = x[at : at + 1].detach()
            answer = model(image).detach()
            if all(float(row @ answer[0].double()) + offset <= 0 for row, offset in case):
                return Answer("sat", image.flatten(), answer.flatten())
        (gradient,) = torch.autograd.grad(worst.sum(), x)
        size = (high - low) * 0.25 * (1 - step / N_STEPS)
        x = torch.minimum(torch.maximum(x.detach() - size * gradient.sign(), low), high)
    return None


def printed(answer: Answer) -> str:
    """The answer in the form of VNN-COMP: the verdict and, for `sat`, the counter-example."""
    if answer.x is None or answer.y is None:
        return answer.verdict
    lines = [f"(X_{i} {value!r})" for i, value in enumerate(answer.x.double().tolist())]
    lines += [f"(Y_{j} {value!r})" for j, value in enumerate(answer.y.double().tolist())]
    return answer.verdict + "\n(" + "\n ".join(lines) + ")"
