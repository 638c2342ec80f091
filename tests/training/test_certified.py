"""CROWN-IBP, SABR and MTL-IBP against what they are made of: intervals, linear bounds and attacked images."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_objectives import EPS, worst_case
from torch import Tensor, nn
from training_toys import linear, quick, step_for

from casemate import checkpoint, rng
from casemate.threat import L2, Linf
from casemate.training.certified import Certified
from casemate.training.crown_ibp import CrownIBP
from casemate.training.interval import IntervalTraining
from casemate.training.mtl_ibp import MtlIBP
from casemate.training.objective import Ball
from casemate.training.sabr import Sabr
from casemate.training.train import Settings, train

AT_ONCE: dict[str, Any] = {"warm_up": 0.0, "ramp": 0.0}


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))


def loss_of(objective: Certified, model: nn.Module, x: Tensor, y: Tensor, progress: float = 1.0) -> Tensor:
    return objective(model, x, y, step=step_for(model, len(x), progress=progress))


def by_intervals(threat: Ball) -> IntervalTraining:
    return IntervalTraining(threat, **AT_ONCE, kappa=0.0)


@pytest.mark.parametrize("threat", [Linf(EPS), L2(1.0)])
def test_crown_ibp_is_above_the_loss_at_every_point_of_the_ball(
    network: nn.Sequential, x: Tensor, y: Tensor, threat: Ball
) -> None:
    bound = loss_of(CrownIBP(threat, **AT_ONCE, kappa=0.0, beta=1.0), network, x, y)
    for seed in range(50):
        points = threat.sample(x, rng.image_keys(seed, torch.arange(len(x))))
        assert F.cross_entropy(network(points), y) <= bound + 1e-5
    (gradient,) = torch.autograd.grad(bound, [network[0].weight])
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_crown_ibp_goes_from_linear_bounds_to_intervals(network: nn.Sequential, x: Tensor, y: Tensor) -> None:
    ends = {beta: CrownIBP(Linf(EPS), **AT_ONCE, kappa=0.0, beta=beta) for beta in (0.0, 1.0)}
    intervals = loss_of(by_intervals(Linf(EPS)), network, x, y)
    torch.testing.assert_close(loss_of(ends[0.0], network, x, y), intervals)
    assert (loss_of(ends[1.0], network, x, y) - intervals).abs() > 1e-4
    # For a linear model both are exact.
    straight = linear(torch.randn(36))
    for objective in ends.values():
        torch.testing.assert_close(loss_of(objective, straight, x, y), worst_case(straight, x, y, EPS, 1))


def test_crown_ibp_falls_from_1_as_eps_grows(x: Tensor, y: Tensor) -> None:
    model = linear(torch.randn(36))
    objective = CrownIBP(Linf(EPS), warm_up=0.2, ramp=0.4, kappa=0.5)
    clean = F.cross_entropy(model(x), y)
    torch.testing.assert_close(loss_of(objective, model, x, y, 0.1), clean)
    expected = 0.75 * clean + 0.25 * worst_case(model, x, y, EPS / 2, 1)
    torch.testing.assert_close(loss_of(objective, model, x, y, 0.4), expected)


def test_sabr_is_between_the_attacked_loss_and_the_bound(network: nn.Sequential, x: Tensor, y: Tensor) -> None:
    threat = Linf(EPS)
    losses = [loss_of(Sabr(threat, **AT_ONCE, box=box), network, x, y) for box in (0.05, 0.3, 0.6, 1.0)]
    torch.testing.assert_close(losses[-1], loss_of(by_intervals(threat), network, x, y))
    assert losses == sorted(losses)
    assert losses[0] >= F.cross_entropy(network(x), y)
    # The image and the box around it stay inside the ball: of a linear model no more is lost than in the worst case.
    straight = linear(torch.randn(36))
    worst = worst_case(straight, x, y, EPS, 1)
    for box in (0.05, 0.5, 1.0):
        torch.testing.assert_close(loss_of(Sabr(threat, **AT_ONCE, box=box), straight, x, y), worst)


def test_mtl_ibp_weighs_the_bound_and_the_attacked_loss(network: nn.Sequential, x: Tensor, y: Tensor) -> None:
    threat = Linf(EPS)
    bound = loss_of(by_intervals(threat), network, x, y)
    attacked = loss_of(MtlIBP(threat, **AT_ONCE, alpha=0.0), network, x, y)
    assert F.cross_entropy(network(x), y) < attacked < bound
    torch.testing.assert_close(loss_of(MtlIBP(threat, **AT_ONCE, alpha=1.0), network, x, y), bound)
    mixed = loss_of(MtlIBP(threat, **AT_ONCE, alpha=0.3), network, x, y)
    torch.testing.assert_close(mixed, 0.3 * bound + 0.7 * attacked)


def test_the_magnitudes_of_all_weights_are_added(network: nn.Sequential, x: Tensor, y: Tensor) -> None:
    plain, more = (
        loss_of(IntervalTraining(Linf(EPS), **AT_ONCE, kappa=0.0, l1=l1), network, x, y) for l1 in (0.0, 1e-3)
    )
    torch.testing.assert_close(more - plain, 1e-3 * sum(weights.abs().sum() for weights in network.parameters()))


@pytest.mark.parametrize("kind", ["crown-ibp", "sabr", "mtl-ibp"])
def test_a_recipe_trains_by_it(tmp_path: Path, kind: str) -> None:
    model = {"name": "gowal-small", "arguments": {"width": 2, "norm": True, "init": "ibp"}}
    recipe = quick(objective={"kind": kind, "regulariser": 0.5}, model=model, epochs=8, optimiser={"lr": 0.005})
    card = train(recipe, tmp_path / "run", Settings(precision="float32"))
    assert card["metrics"]["clean"] > 0.2
    assert checkpoint.load(tmp_path / "run")[1]["recipe"]["objective"]["kind"] == kind
