"""A VNNLIB property of a network: a counter-example by descent, or a proof by branch and bound.

Where the search for a proof has its worst bounds, it also shows where a counter-example may be.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from casemate import rng
from casemate.bounds.branching import search
from casemate.bounds.certifiers import Subject
from casemate.bounds.linear import LinearBounds
from casemate.bounds.optimised import OptimisedBounds
from casemate.errors import CasemateError
from casemate.threat import Linf
from casemate.vnn.vnnlib import Cases, Property

# Points the descent starts from for each case, and its steps.
N_STARTS, N_STEPS = 20, 60
# Seconds of the first search for each case.
FIRST_SEARCH = 1.0


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
    inside = _representable(lower, upper)
    descents = [] if inside is None else [_Descent(model, *inside, case, deadline) for case in prop.cases]
    for descent in descents:
        if (found := descent.anywhere()) is not None:
            return found
    with torch.no_grad():
        box = subject.domain.between(lower, upper)
        reach = Linf(float((upper - lower).max()) / 2 or 1e-9)
        middle = (lower + upper) / 2
        bounds = OptimisedBounds(subject.graph, reach, middle, box, subject.domain, deadline=deadline, n_steps=n_steps)
    return _decided(bounds, prop.cases, descents, n_steps, deadline)


def _decided(
    bounds: LinearBounds, cases: Cases, descents: Sequence["_Descent"], n_steps: int, deadline: float
) -> Answer:
    """A search for each case in turn, the longer the later, so that a hard one does not keep the others waiting."""
    open_, stuck, seconds = dict(enumerate(cases)), False, FIRST_SEARCH
    while open_ and time.monotonic() < deadline:
        for place, case in list(open_.items()):
            answers: list[Answer] = []

            def refuted(corners: Tensor, place: int = place, answers: list[Answer] = answers) -> bool:
                answers += descents[place].around(corners) if descents else []
                return bool(answers)

            until = min(deadline, time.monotonic() + seconds)
            proved = any(float(search(bounds, row, n_steps, until, offset, refuted)) > 0 for row, offset in case)
            if answers:
                return answers[0]
            gave_up = not proved and time.monotonic() < until
            stuck = stuck or gave_up
            if proved or gave_up:
                del open_[place]
        seconds *= 4
    if open_:
        return Answer("timeout")
    return Answer("unknown" if stuck else "unsat")


def _representable(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor] | None:
    """The box of the float32 numbers inside the box; None where there is none, so that none can be claimed."""
    low, high = lower.float(), upper.float()
    low = torch.where(low.double() < lower, low.nextafter(torch.tensor(torch.inf)), low)
    high = torch.where(high.double() > upper, high.nextafter(torch.tensor(-torch.inf)), high)
    return None if bool((low > high).any()) else (low, high)


@dataclass(frozen=True, eq=False)
class _Descent:
    """Projected sign descent on the largest of the constraints of `case`, for inputs from `low` to `high`."""

    model: nn.Module
    low: Tensor
    high: Tensor
    case: Sequence[tuple[Tensor, float]]
    deadline: float

    def anywhere(self) -> Answer | None:
        """A counter-example from random starts, if any."""
        draws = rng.uniform(rng.image_keys(0, torch.arange(N_STARTS)), self.low.shape[1:])
        return next(iter(self._from(self.low + draws * (self.high - self.low), 0.25, N_STEPS)), None)

    def around(self, x: Tensor) -> list[Answer]:
        """Counter-examples found by a few short steps from where a bound is least."""
        return self._from(x.float(), 0.1, N_STEPS // 6)

    def _from(self, x: Tensor, size: float, n_steps: int) -> list[Answer]:
        """Steps from `size` of the box on, ever smaller; empty where they find nothing."""
        rows = torch.stack([row for row, _ in self.case]).float()
        offsets = torch.tensor([offset for _, offset in self.case])
        x = torch.minimum(torch.maximum(x, self.low), self.high)
        for step in range(n_steps):
            if time.monotonic() >= self.deadline:
                break
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                worst = (self.model(x) @ rows.T + offsets).amax(dim=1)
                (gradient,) = torch.autograd.grad(worst.sum(), x)
            for at in (worst <= 0).nonzero().flatten().tolist():
                if (answer := self._stated(x[at : at + 1].detach())) is not None:
                    return [answer]
            move = size * (1 - step / n_steps) * (self.high - self.low)
            x = torch.minimum(torch.maximum(x.detach() - move * gradient.sign(), self.low), self.high)
        return []

    def _stated(self, image: Tensor) -> Answer | None:
        """The answer for this input alone and as the file states it, exactly; None where it does not hold."""
        with torch.no_grad():
            y = self.model(image)[0]
        holds = all(float(row @ y.double()) + offset <= 0 for row, offset in self.case)
        return Answer("sat", image.flatten(), y) if holds else None


def printed(answer: Answer) -> str:
    """The answer in the form of VNN-COMP: the verdict and, for `sat`, the counter-example."""
    if answer.x is None or answer.y is None:
        return answer.verdict
    lines = [f"(X_{i} {value!r})" for i, value in enumerate(answer.x.double().tolist())]
    lines += [f"(Y_{j} {value!r})" for j, value in enumerate(answer.y.double().tolist())]
    return answer.verdict + "\n(" + "\n ".join(lines) + ")"
