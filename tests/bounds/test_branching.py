"""Branch and bound against the exact least margin of tiny networks, which all patterns of signs give."""

import itertools
import time
from collections.abc import Iterator

import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from casemate import Linf
from casemate.bounds import AlphaCROWN, BranchAndBound
from casemate.vnn import verify as module
from casemate.vnn.vnnlib import Property

EPS = 0.3


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


def _exact(model: nn.Sequential, x: Tensor, y: int, eps: float = EPS) -> float:
    """The least margin, by a linear program for each pattern of signs."""
    w, b = (part.detach().double().numpy() for part in (model[1].weight, model[1].bias))
    v, c = (part.detach().double().numpy() for part in (model[3].weight, model[3].bias))
    image = x.double().flatten().tolist()
    box = [(max(0.0, value - eps), min(1.0, value + eps)) for value in image]
    least = float("inf")
    for pattern in itertools.product((0, 1), repeat=5):
        signs = torch.tensor([1.0 if on else -1.0 for on in pattern]).double().numpy()
        row = (v[y] - v[1 - y]) * pattern
        found = linprog(row @ w, A_ub=-signs[:, None] * w, b_ub=signs * b, bounds=box)
        if found.status == 0:
            least = min(least, found.fun + row @ b + c[y] - c[1 - y])
    return least


@pytest.mark.parametrize("seed", range(12))
def test_it_decides_as_the_exact_least_margin_does(seed: int) -> None:
    model = _network(seed)
    x = torch.rand(1, 1, 2, 2)
    y = model(x).argmax(dim=1)
    exact = _exact(model, x, int(y))
    found = BranchAndBound(timeout=20).certify(model, x, y, Linf(EPS))
    assert float(found.margin) <= exact
    if abs(exact) > 1e-3:
        assert bool(found.holds) == (exact > 0)
    assert bool(found.holds) or not bool(AlphaCROWN().certify(model, x, y, Linf(EPS)).holds)


@pytest.mark.parametrize("seed", range(3))
def test_without_time_it_knows_what_optimised_slopes_do(seed: int) -> None:
    model = _network(seed)
    x = torch.rand(1, 1, 2, 2)
    y = model(x).argmax(dim=1)
    found = BranchAndBound(timeout=0).certify(model, x, y, Linf(EPS))
    assert torch.equal(found.margin, AlphaCROWN().certify(model, x, y, Linf(EPS)).margin)


def _property(x: Tensor, y: int, eps: float = EPS) -> Property:
    """That the other class is at least as likely somewhere near x."""
    row = torch.tensor([1.0, -1.0] if y == 0 else [-1.0, 1.0], dtype=torch.float64)
    image = x.double().flatten()
    return Property((image - eps).clamp(min=0), (image + eps).clamp(max=1), (((row, 0.0),),))


@pytest.mark.parametrize("eps", [0.3, 0.7])
@pytest.mark.parametrize("seed", range(12))
def test_where_a_bound_is_worst_it_shows_the_counter_example(
    seed: int, eps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a descent from anywhere else a property is answered as the exact least margin says."""
    monkeypatch.setattr(module._Descent, "anywhere", lambda self: None)
    model = _network(seed)
    x = torch.rand(1, 1, 2, 2)
    y = int(model(x).argmax(dim=1))
    exact = _exact(model, x, y, eps)
    prop = _property(x, y, eps)
    found = module.verify(model, (1, 2, 2), prop, timeout=20)
    if abs(exact) > 1e-3:
        assert found.verdict == ("unsat" if exact > 0 else "sat")
    if found.x is not None:
        assert bool(((found.x.double() >= prop.lower) & (found.x.double() <= prop.upper)).all())
        assert found.x.dtype == torch.float32
        answer = model(found.x.view(1, 1, 2, 2))[0].tolist()
        assert answer[y] <= answer[1 - y]


def test_a_hard_case_does_not_keep_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first case is one that no search ends, the second has a counter-example that only a search shows."""
    monkeypatch.setattr(module._Descent, "anywhere", lambda self: None)
    seconds = []

    def endless(bounds, row, n_steps, deadline, offset=0.0, refuted=None):  # type: ignore[no-untyped-def]
        if not bool(row.any()):
            while time.monotonic() < deadline:
                pass
            return torch.tensor(-1.0)
        seconds.append(deadline - time.monotonic())
        return real(bounds, row, n_steps, deadline, offset, refuted)

    real = module.search
    monkeypatch.setattr(module, "search", endless)
    monkeypatch.setattr(module, "FIRST_SEARCH", 0.1)
    seed, x = next((seed, x) for seed, x in _images() if _exact(_network(seed), x, _label(seed, x)) < -0.01)
    prop = _property(x, _label(seed, x))
    hard = ((torch.zeros(2, dtype=torch.float64), 1.0),)
    found = module.verify(_network(seed), (1, 2, 2), Property(prop.lower, prop.upper, (hard, *prop.cases)), timeout=20)
    assert found.verdict == "sat"
    assert seconds[0] < 1


def test_no_time_is_no_answer() -> None:
    seed, x = next(iter(_images()))
    found = module.verify(_network(seed), (1, 2, 2), _property(x, _label(seed, x), 1.0), timeout=0)
    assert found.verdict == "timeout"


def _images() -> Iterator[tuple[int, Tensor]]:
    for seed in range(12):
        torch.manual_seed(100 + seed)
        yield seed, torch.rand(1, 1, 2, 2)


def _label(seed: int, x: Tensor) -> int:
    return int(_network(seed)(x).argmax(dim=1))
