"""Branch and bound against the exact least margin of tiny networks, which all patterns of signs give."""

import itertools

import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from casemate import Linf
from casemate.bounds import AlphaCROWN, BranchAndBound

EPS = 0.3


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


def _exact(model: nn.Sequential, x: Tensor, y: int) -> float:
    """The least margin, by a linear program for each pattern of signs."""
    w, b = (part.detach().double().numpy() for part in (model[1].weight, model[1].bias))
    v, c = (part.detach().double().numpy() for part in (model[3].weight, model[3].bias))
    image = x.double().flatten().tolist()
    box = [(max(0.0, value - EPS), min(1.0, value + EPS)) for value in image]
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
