"""FMN against the distances of affine classifiers, and its eps against a reckoning by hand."""

import math
from typing import Any

import pytest
import torch
from attack_toys import SHAPE, Affine, Unmoved, keys, near_grey, zeros
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from casemate import L1, L2, Linf, rng
from casemate.attacks import FMN, fmn
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import margin
from casemate.testing import check_attack, models
from casemate.threat import Threat

# With each norm its dual, and how far class 0 is ahead where the nearest boundary is well inside the box.
each_norm = pytest.mark.parametrize(
    ("threat", "dual", "ahead"),
    [(Linf(0.1), 1, 3.0), (L2(1), 2, 3.0), (L1(1), math.inf, 0.7)],
    ids=["linf", "l2", "l1"],
)


@each_norm
@pytest.mark.parametrize("n_classes", [2, 10])
def test_comes_within_a_thousandth_of_the_distance_of_an_affine_classifier(
    n_classes: int, threat: Threat, dual: float, ahead: float
) -> None:
    model, x = Affine(n_classes, ahead=ahead), near_grey(20)
    known = model.distance(x, dual=dual)
    found = FMN().nearest(Engine(model, precision="float32"), x, zeros(20), threat, keys=keys(20))
    assert (found.distance < 0.45).all(), "no value has met the box, so that the closed form holds"
    assert (found.distance >= known * (1 - 1e-5)).all()
    # The margin follows the class next in line, which with several classes is not always the nearest.
    assert (found.distance <= 1.001 * model.distance_to_class_of(found.x_adv, x, dual)).all()
    assert float((found.distance / known).median()) <= (1.001 if n_classes == 2 else 1.15)


@pytest.mark.parametrize("threat", [Linf(0.3), L2(1), L1(2.5)], ids=str)
def test_the_box_is_met_and_kept(threat: Linf | L2 | L1) -> None:
    # From black the classifier's negative weights are out of reach, and in l1 the largest are used up.
    x = torch.zeros(1, *SHAPE)
    model = models.Linear(SHAPE)
    model.bias = float(model.gain(x, threat)) - 0.5 * float(model.weight.sum())
    found = FMN(n_steps=200).nearest(Engine(model, precision="float32"), x, zeros(1), threat, keys=keys(1))
    assert 0.999 * threat.eps < float(found.distance) < 1.01 * threat.eps


class Walked(Engine):
    """Remembers the points whose gradients it was asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, precision="float32")
        self.points: list[Tensor] = []

    def gradient(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.points.append(x.clone())
        return super().gradient(x, *args, **kwargs)


@each_norm
def test_the_first_point_is_gamma_beyond_a_linear_boundary(threat: Threat, dual: float, ahead: float) -> None:
    model, x = Affine(2, ahead=ahead), near_grey(4)
    engine = Walked(model)
    FMN(n_steps=2, gamma=0.3).nearest(engine, x, zeros(4), threat, keys=keys(4))
    clean, first = engine.points
    assert torch.equal(clean, x)
    assert torch.allclose(threat.measure(first, x), 1.3 * model.distance(x, dual), rtol=1e-5)


def test_eps_follows_the_answers_as_published() -> None:
    model, x = Affine(2), near_grey(1)
    engine = Walked(model)
    FMN(n_steps=30).nearest(engine, x, zeros(1), L2(1), keys=keys(1))
    norms = [float(L2(1).measure(point, x)) for point in engine.points]
    answers = [bool(margin(model(point), zeros(1)) > 0) for point in engine.points]
    assert not all(answers[answers.index(True) :]), "the walk crosses the boundary in both directions"
    eps = nearest = math.inf
    for step, (norm, wrong) in enumerate(zip(norms[:-1], answers, strict=False)):
        gamma = 0.001 + (0.05 - 0.001) * (1 + math.cos(math.pi * step / 30)) / 2
        if wrong:
            nearest = min(nearest, norm)
            eps = min((1 - gamma) * eps, nearest)
        else:
            eps = (1 + gamma) * (float(model.distance(x, dual=2)) if math.isinf(nearest) else eps)
        # Along the normal of a linear boundary, with steps that reach it, each point is on the sphere of radius eps.
        assert norms[step + 1] == pytest.approx(eps, rel=1e-4)


def test_steps_shrink_to_a_hundredth_and_a_flat_spot_is_left_in_a_random_direction() -> None:
    x = torch.full((2, *SHAPE), 0.5)
    # The same logits everywhere: no slope and no boundary, so that eps leaves the steps as they are.
    engine = Walked(nn.Sequential(Unmoved(), nn.Hardtanh()))
    FMN(n_steps=20, step_size=0.08).nearest(engine, x, zeros(2), L2(1), keys=keys(2))
    moves = torch.stack(engine.points).diff(dim=0).flatten(2)
    expected = [0.0008 + 0.0792 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(19)]
    assert torch.allclose(moves.norm(dim=2), torch.tensor(expected)[:, None].expand(19, 2), rtol=1e-3)
    assert (moves[1:] * moves[:-1]).sum(dim=2).abs().max() < 0.8 * 0.08**2, "each step has a direction of its own"


@settings(max_examples=30, deadline=None)
@given(
    norm=st.sampled_from([Linf, L2, L1]),
    seed=st.integers(0, 2**32),
    radii=st.lists(st.floats(-4, 1), min_size=3, max_size=3),
)
def test_each_change_goes_to_the_nearest_point_of_its_own_ball(
    norm: type[Linf] | type[L2] | type[L1], seed: int, radii: list[float]
) -> None:
    change = 0.9 * (rng.uniform(keys(3, seed), SHAPE) - 0.5)
    eps = 10 ** torch.tensor(radii, dtype=torch.float64)
    inside = fmn._in_ball(change, eps, norm(1))
    grey = torch.full((1, *SHAPE), 0.5)
    for image in range(3):
        # The box is not met around grey, so that the threat model projects onto its ball alone.
        expected = norm(float(eps[image])).project(grey + change[image], grey) - grey
        assert torch.allclose(inside[image], expected[0], rtol=1e-5, atol=1e-6)


def test_keeps_the_promises_of_an_attack() -> None:
    check_attack(FMN(n_steps=20))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "FMN needs at least 1 step, not 0"),
        ({"step_size": 0.0}, "the step size of FMN is a positive l2 norm, not 0.0"),
        ({"step_size": math.inf}, "the step size of FMN"),
        ({"gamma": 1.0}, r"gamma of FMN is the share by which eps changes, in \(0, 1\), not 1.0"),
        ({"gamma": math.nan}, "gamma of FMN"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        FMN(**settings)
