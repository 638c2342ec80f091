"""Estimated gradients against secants, loops and slopes known in closed form; what both attacks on them do alike."""

import math
from collections.abc import Sequence

import pytest
import torch
from attack_toys import SHAPE, Asked, Peak, at_distances, keys, zeros
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from casemate import L1, L2, PGD, Linf, rng
from casemate.attacks import NES, SPSA, Attack, estimates
from casemate.attacks.estimates import Directions, Estimate, estimate
from casemate.attacks.spsa import rademacher
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import LOSSES, cross_entropy, margin
from casemate.testing import models
from casemate.threat import Threat

BOTH_LAWS = pytest.mark.parametrize("law", [rng.normal, rademacher])
BOTH_ATTACKS = pytest.mark.parametrize(
    "attack",
    [NES(n_steps=30, n_samples=64, sigma=0.03), SPSA(n_steps=30, n_samples=64, sigma=0.03)],
    ids=["NES", "SPSA"],
)


def estimated(
    model: nn.Module | Engine,
    x_adv: Tensor,
    *,
    x: Tensor | None = None,
    threat: Threat | None = None,
    loss: str = "margin",
    law: Directions = rademacher,
    sigma: float = 0.05,
    n_samples: int = 128,
    seed: int = 0,
) -> Estimate:
    engine = model if isinstance(model, Engine) else Engine(model)
    n = len(x_adv)
    return estimate(
        engine, x_adv, x_adv if x is None else x, zeros(n), threat or Linf(0.1), LOSSES[loss],
        directions=law, sigma=sigma, n_samples=n_samples, keys=keys(n, seed),
    )  # fmt: skip


class Wave(nn.Module):
    """A smooth function of a single value."""

    def forward(self, x: Tensor) -> Tensor:
        ahead = torch.sin(5 * x.flatten(1).sum(dim=1))
        return torch.stack([-ahead, ahead], dim=1)


@given(value=st.floats(0, 1, width=32), sigma=st.floats(0.01, 1), loss=st.sampled_from(["margin", "cross-entropy"]))
def test_the_slope_of_a_single_value_is_the_secant_inside_the_box(value: float, sigma: float, loss: str) -> None:
    x = torch.full((1, 1, 1, 1), value)
    ends = [(x + sign * sigma).clamp(0, 1) for sign in (1, -1)]
    plus, minus = (LOSSES[loss](Wave()(end), zeros(1)) for end in ends)
    secant = (plus - minus) / (ends[0] - ends[1]).flatten()
    slope = estimated(Wave(), x, loss=loss, sigma=sigma, n_samples=6).gradient
    assert torch.allclose(slope.flatten(), secant, rtol=1e-3, atol=1e-4)


@BOTH_LAWS
def test_the_estimate_is_the_formula_written_as_a_loop(law: Directions) -> None:
    model = models.seeded(lambda: models.Rippled(SHAPE))
    x, y = models.images(3, SHAPE), zeros(3)
    x[0] = x[0].round()
    drawn: list[Tensor] = []

    def recorded(of: rng.Keys, shape: Sequence[int]) -> Tensor:
        drawn.append(law(of, shape))
        return drawn[-1]

    n_pairs, sigma = estimates.PAIRS_AT_ONCE + 5, 0.1
    gradient = estimated(model, x, loss="cross-entropy", law=recorded, sigma=sigma, n_samples=2 * n_pairs).gradient
    directions = torch.cat(drawn, dim=1)
    assert directions.shape == (3, n_pairs, *SHAPE)
    for image in range(3):
        total, left, length = (torch.zeros(SHAPE) for _ in range(3))
        for u in directions[image]:
            plus, minus = ((x[image] + sign * sigma * u).clamp(0, 1) for sign in (1, -1))
            rise = cross_entropy(model(torch.stack([plus, minus])), y[:2]).diff().neg()
            total += rise * u / (2 * sigma * n_pairs)
            left += (plus - minus) / (2 * sigma) * u
            length += u * u
        assert torch.allclose(gradient[image], total * length / left, rtol=1e-3, atol=1e-3)
        # Inside the box that is the published formula.
        assert image == 0 or bool((left < 0.999 * length).any())


@BOTH_LAWS
def test_the_mean_over_draws_is_the_gradient_of_a_linear_classifier_at_faces_of_the_box_too(law: Directions) -> None:
    shape, n, n_pairs = (1, 3, 3), 1200, 64
    linear = models.Linear(shape)
    weight = linear.weight.flatten().double()
    x = torch.tensor([0.0, 0.01, 0.5, 1.0, 0.99, 0.5, 0.0, 1.0, 0.5]).view(1, *shape).expand(n, *shape)
    drawn: list[Tensor] = []

    def recorded(of: rng.Keys, shape: Sequence[int]) -> Tensor:
        drawn.append(law(of, shape))
        return drawn[-1]

    found = estimated(linear, x, law=recorded, n_samples=2 * n_pairs).gradient.flatten(1).double()
    u = torch.cat(drawn).flatten(2).double()
    at, sigma = x.flatten(1)[:, None].double(), 0.05
    moved = ((at + sigma * u).clamp(0, 1) - (at - sigma * u).clamp(0, 1)) / (2 * sigma)
    share = (moved * u).sum(dim=1) / u.square().sum(dim=1)
    # Given the sizes of all draws, their signs are fair coins: value i is weight_i mean(u_i^2), and a sum of the
    # products of the other moves with u_i, whose tails are Hoeffding's.
    others = (moved * weight).square().sum(dim=2, keepdim=True) - (moved * weight).square()
    variance = (others * (u / share[:, None]).square()).sum(dim=(0, 1)) / (n * n_pairs) ** 2
    bound = (2 * math.log(2 * 9 / 1e-9) * variance).sqrt()
    expected = weight * u.square().mean(dim=(0, 1))
    assert ((found.mean(dim=0) - expected).abs() <= bound + 1e-3).all()
    assert (bound < 0.4 * weight.abs()).all(), "a slope halved at a face would be seen"
    assert torch.allclose(u.square().mean(dim=(0, 1)), torch.ones(9, dtype=torch.float64), atol=0.05)


@pytest.mark.parametrize("n_pairs", [1, 100, 10_000])
def test_the_error_for_a_linear_classifier_falls_as_the_root_of_the_number_of_samples(n_pairs: int) -> None:
    shape = (1, 3, 3)
    linear, x = models.Linear(shape), models.images(4, shape) / 2 + 0.25
    weight = linear.weight.double()
    error = estimated(linear, x, n_samples=2 * n_pairs).gradient - weight
    # Value i is weight_i and a mean of n_pairs sums of the other weights with fair signs (Hoeffding): one of 36 is
    # beyond this but for 1 in 10^9.
    bound = (2 * math.log(2 * 36 / 1e-9) * (weight.square().sum() - weight.square()) / n_pairs).sqrt()
    assert (error.abs() <= bound + 1e-3).all()
    assert n_pairs < 10_000 or bool((bound < weight.abs() / 2).all())


def test_images_in_parts_have_the_same_estimate_and_no_question_is_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(Asked):
        largest = 0

        def logits(self, x: Tensor, *, keys: rng.Keys | None = None) -> Tensor:
            self.largest = max(self.largest, len(x))
            return super().logits(x, keys=keys)

    model = models.seeded(lambda: models.Rippled(SHAPE))
    engine, x = Largest(model), models.images(9, SHAPE)
    whole = estimated(engine, x, n_samples=300)
    assert engine.n_points == 9 * 300
    monkeypatch.setattr(estimates, "VALUES_AT_ONCE", 2 * 35 * 2 * estimates.PAIRS_AT_ONCE)
    engine.largest = 0
    parts = estimated(engine, x, n_samples=300)
    assert engine.largest == 2 * 2 * estimates.PAIRS_AT_ONCE
    for one, other in zip(vars(whole).values(), vars(parts).values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threat", [Linf(0.12), L2(0.35), L1(1.6)], ids=str)
def test_the_least_right_point_inside_the_threat_model_is_kept(threat: Threat) -> None:
    recorded = models.Recorded(models.seeded(lambda: models.Rippled(SHAPE)))
    x = models.images(1, SHAPE)
    found = estimated(Engine(recorded), x, threat=threat, law=rng.normal, n_samples=200)
    asked = torch.cat([seen for seen in recorded.seen if len(seen) > 1])
    assert ((asked >= 0) & (asked <= 1)).all()
    inside = asked[threat.contains(asked, x.expand_as(asked))]
    assert 0 < len(inside) < len(asked)
    excesses = margin(recorded.model(inside), zeros(len(inside)))
    assert torch.allclose(found.excess, excesses.max())
    assert torch.equal(found.seen[0], inside[excesses.argmax()])
    none = estimated(recorded, x, threat=Linf(1e-6))
    assert none.excess.isneginf().all()


class NoisySlope(nn.Module):
    """A linear classifier that draws whether its slope is 0 or doubled, and a number added to its score."""

    stochastic = True

    def forward(self, x: Tensor) -> Tensor:
        drawn = rng.layer_keys(x, "slope")
        slope = 2.0 * (rng.uniform(drawn, (1,))[:, 0] < 0.5)
        ahead = slope * x.flatten(1).sum(dim=1) + 100 * rng.normal(rng.fold(drawn, "added"), (1,))[:, 0]
        return torch.stack([-ahead / 2, ahead / 2], dim=1)


def test_each_pair_of_points_has_a_draw_of_a_randomised_classifier_of_its_own() -> None:
    x = torch.full((4, 1, 1, 1), 0.5)
    slopes = estimated(NoisySlope(), x, n_samples=400).gradient.flatten()
    # One draw for both ends: what is added cancels. 200 draws in all, by Hoeffding within 0.5 but for 1 in 10^10.
    assert ((slopes - 1).abs() < 0.5).all()
    assert len(slopes.unique()) > 1
    assert torch.equal(slopes, estimated(NoisySlope(), x, n_samples=400).gradient.flatten())
    assert not torch.equal(slopes, estimated(NoisySlope(), x, n_samples=400, seed=1).gradient.flatten())


class Quantised(nn.Module):
    """Rounds each value to 16 levels, without a surrogate."""

    def forward(self, x: Tensor) -> Tensor:
        return (15 * x).round() / 15


class _Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        raise NotImplementedError("no gradient")


class Raising(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Cut.apply(x)


class Backwards(nn.Module):
    """The image itself, with a gradient of the wrong sign."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.detach() - x


class Demanding(nn.Module):
    """Refuses what is not an image."""

    def forward(self, x: Tensor) -> Tensor:
        assert ((x >= 0) & (x <= 1)).all()
        return x


@BOTH_ATTACKS
@pytest.mark.parametrize("defence", [Quantised(), Raising(), Backwards(), Demanding()], ids=lambda d: type(d).__name__)
def test_breaks_classifiers_whose_gradient_is_missing_or_wrong(attack: Attack, defence: nn.Module) -> None:
    linear = models.Linear(SHAPE)
    model = nn.Sequential(defence, linear)
    x, threat = at_distances(linear, torch.linspace(0.02, 0.06, 6)), Linf(0.1)
    y = model(x).argmax(dim=1)
    assert not y.any()
    broken = margin(model(attack(model, x, y, threat, keys=keys(6))), y) > 0
    assert broken.all()
    if isinstance(defence, Backwards):
        by_gradient = PGD(n_steps=30, random_start=False)(model, x, y, threat, keys=keys(6))
        assert (margin(model(by_gradient), y) <= 0).all()
    if isinstance(defence, Raising):
        with pytest.raises(NotImplementedError):
            PGD(n_steps=1)(model, x, y, threat, keys=keys(6))


@BOTH_ATTACKS
def test_cost_is_that_of_the_images_that_resist(attack: NES | SPSA) -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.tensor([-0.1, 0.002, 0.002, 0.3, 0.3]))
    engine = Asked(linear)
    attack(engine, x, zeros(5), Linf(0.1), keys=keys(5))
    resisted = attack.n_steps * (64 + 1)
    # Two fall in the first step, and each of them may be asked about once more to make sure.
    assert 0 <= engine.n_points - 5 - 2 * resisted - 2 * 65 <= 2


@BOTH_ATTACKS
def test_the_best_point_met_is_returned(attack: Attack) -> None:
    x = torch.full((1, *SHAPE), 0.5)
    x_adv = attack(Peak(), x, zeros(1), Linf(0.1), keys=keys(1))
    assert abs(float(x_adv.mean()) - 0.53) < 0.003


def test_an_unknown_loss_is_refused() -> None:
    for attack in (NES, SPSA):
        with pytest.raises(CasemateError, match="unknown loss 'hinge'"):
            attack(loss="hinge")
