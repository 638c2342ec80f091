"""Objectives against closed forms: on a linear model the worst case, its loss and its gradient are known."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_toys import linear, step_for

from casemate.gradients import Engine
from casemate.rng import image_keys
from casemate.threat import L2, Linf
from casemate.training.adversarial import Adversarial
from casemate.training.fast import Fast
from casemate.training.natural import Natural
from casemate.training.objective import Ball, Objective, Step, warmed
from casemate.training.trades import Trades

EPS = 0.1
D = 36


@pytest.fixture
def model() -> nn.Sequential:
    return linear(torch.randn(D)).train()


def seen(model: nn.Module) -> list[Tensor]:
    """The images that the model is trained on from here on."""
    batches: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        if module.training:  # the search goes through a copy in eval mode
            batches.append(inputs[0].detach().clone())

    model.register_forward_pre_hook(note)
    return batches


def worst_case(model: nn.Sequential, x: Tensor, y: Tensor, eps: float, dual: float) -> Tensor:
    """The mean over images of log(1 + exp(-(margin - eps |w|_dual)))."""
    weights = model[1].weight
    w = weights[1] - weights[0]
    margin = (2 * y - 1) * (x.flatten(1) @ w)
    return F.softplus(eps * torch.linalg.vector_norm(w, dual) - margin).mean()


@pytest.mark.parametrize(("threat", "dual"), [(Linf(EPS), 1), (L2(EPS), 2)])
def test_adversarial_reaches_the_worst_case_of_a_linear_model_and_its_gradient(
    threat: Ball, dual: float, model: nn.Sequential, x: Tensor, y: Tensor
) -> None:
    # Steps in linf reach the corner from any start, those in l2 the pole from the centre.
    objective = Adversarial(threat, n_steps=10, random_start=threat == Linf(EPS))
    loss = objective(model, x, y, step=step_for(model, len(x)))
    (gradient,) = torch.autograd.grad(loss, list(model.parameters()))
    expected = worst_case(model, x, y, EPS, dual)
    (expected_gradient,) = torch.autograd.grad(expected, list(model.parameters()))
    torch.testing.assert_close(loss, expected)
    # Danskin's theorem: no gradient flows through the attack, and none is missing.
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["rs", "n-fgsm"])
def test_one_fast_step_reaches_at_least_the_worst_case_of_the_ball_it_promises(
    method: str, model: nn.Sequential, x: Tensor, y: Tensor
) -> None:
    loss = Fast(Linf(EPS), method)(model, x, y, step=step_for(model, len(x)))  # type: ignore[arg-type]
    clean = F.cross_entropy(model(x), y)
    assert clean < loss <= worst_case(model, x, y, EPS if method == "rs" else 3 * EPS, 1)


def test_fast_rs_stays_in_the_ball_and_the_box(model: nn.Sequential, y: Tensor) -> None:
    threat, x = Linf(EPS), torch.rand(16, 1, 6, 6)
    images = seen(model)
    Fast(threat)(model, x, y, step=step_for(model, len(x)))
    assert threat.contains(images[0], x).all()
    # 1.25 eps carries a point of the ball to its face unless the start was far on the other side.
    assert ((images[0] - x).abs() > 0.99 * EPS).float().mean() > 0.4


def test_n_fgsm_starts_within_2_eps_and_is_not_projected(
    model: nn.Sequential, x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Tensor] = []
    gradient_of = Engine.gradient

    def gradient(engine: Engine, at: Tensor, *arguments: object, **named: object) -> tuple[Tensor, Tensor]:
        starts.append(at)
        return gradient_of(engine, at, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "gradient", gradient)
    images = seen(model)
    Fast(Linf(EPS), "n-fgsm")(model, x, y, step=step_for(model, len(x)))
    assert Linf(2 * EPS).contains(starts[0], x).all()
    assert (starts[0] - x).abs().max() > 1.9 * EPS
    w = model[1].weight[1] - model[1].weight[0]
    ascent = ((1 - 2 * y)[:, None] * w.sign()).view_as(x)
    torch.testing.assert_close(images[0], (starts[0] + EPS * ascent).clamp(0, 1))
    assert (images[0] - x).abs().max() > 2.8 * EPS


def test_one_step_from_the_clean_image_is_fgsm(model: nn.Sequential, y: Tensor) -> None:
    x = torch.rand(16, 1, 6, 6)
    images = seen(model)
    Adversarial(Linf(EPS), n_steps=1, step_size=EPS, random_start=False)(model, x, y, step=step_for(model, 16))
    w = model[1].weight[1] - model[1].weight[0]
    ascent = ((1 - 2 * y)[:, None] * w.sign()).view_as(x)
    torch.testing.assert_close(images[0], (x + EPS * ascent).clamp(0, 1), rtol=0, atol=1e-6)


def test_the_step_size_grows_with_eps(model: nn.Sequential, x: Tensor, y: Tensor) -> None:
    images = seen(model)
    objective = Adversarial(Linf(EPS), n_steps=1, step_size=EPS / 2, random_start=False, warm_up=0.8)
    for progress in (0.2, 0.4, 0.8):
        objective(model, x, y, step=step_for(model, 16, progress=progress))
    moved = [float((adversarial - x).abs().max()) for adversarial in images]
    assert moved == pytest.approx([EPS / 8, EPS / 4, EPS / 2], abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_natural_is_cross_entropy(smoothing: float, model: nn.Sequential, x: Tensor, y: Tensor) -> None:
    p = model(x).log_softmax(dim=1)
    right = p.gather(1, y[:, None]).squeeze(1)
    by_hand = -((1 - smoothing) * right + smoothing * p.mean(dim=1)).mean()
    torch.testing.assert_close(Natural(smoothing)(model, x, y, step=step_for(model, 16)), by_hand)


def test_trades_in_a_tiny_ball_is_cross_entropy(model: nn.Sequential, x: Tensor, y: Tensor) -> None:
    loss = Trades(Linf(1e-6), beta=6)(model, x, y, step=step_for(model, 16))
    torch.testing.assert_close(loss, F.cross_entropy(model(x), y), rtol=0, atol=1e-5)


def test_trades_is_clean_loss_plus_beta_times_the_divergence_at_the_worst_point(
    model: nn.Sequential, x: Tensor, y: Tensor
) -> None:
    images = seen(model)
    loss = Trades(Linf(EPS), beta=3)(model, x, y, step=step_for(model, 16))
    clean, attacked = images[0].chunk(2)
    assert torch.equal(clean, x)
    assert Linf(EPS).contains(attacked, x).all()
    p, q = model(x).softmax(dim=1).double(), model(attacked).softmax(dim=1).double()
    divergence = (p * (p / q).log()).sum(dim=1)
    torch.testing.assert_close(loss.double(), F.cross_entropy(model(x), y).double() + 3 * divergence.mean())
    # On a line of logits the divergence is largest at one of the two far corners.
    w = (model[1].weight[1] - model[1].weight[0]).sign().view(1, 1, 6, 6)
    corners = torch.stack([model(x + sign * EPS * w).softmax(dim=1).double() for sign in (-1, 1)])
    largest = (p * (p / corners).log()).sum(dim=2)
    assert ((divergence / largest - 1).abs() < 1e-3).any(dim=0).all()
    # Which one is a matter of the start; away from another answer than p it would be the same for all.
    surer = model(attacked).softmax(dim=1).amax(dim=1) > model(x).softmax(dim=1).amax(dim=1)
    assert 0 < surer.sum() < len(x)


def test_trades_moves_both_answers_of_the_model(model: nn.Sequential, x: Tensor, y: Tensor) -> None:
    images = seen(model)
    loss = Trades(Linf(EPS), beta=3)(model, x, y, step=step_for(model, 16))
    (gradient,) = torch.autograd.grad(loss, list(model.parameters()))
    clean, attacked = images[0].chunk(2)
    p, q = model(clean).softmax(dim=1), model(attacked).softmax(dim=1)
    by_hand = F.cross_entropy(model(clean), y) + 3 * (p * (p / q).log()).sum(dim=1).mean()
    torch.testing.assert_close(
        gradient, torch.autograd.grad(by_hand, list(model.parameters()))[0], rtol=1e-4, atol=1e-5
    )


def test_trades_has_a_gradient_where_the_classifier_is_sure(x: Tensor, y: Tensor) -> None:
    model = linear(torch.full((D,), 100.0))  # logits of 1800: probabilities of exactly 0 and 1
    Trades(Linf(EPS))(model, x, y, step=step_for(model, 16)).backward()
    assert model[1].weight.grad.isfinite().all()


def test_warm_up_grows_linearly_and_never_to_zero() -> None:
    grid = torch.linspace(0, 0.999, 200).tolist()
    grown = [warmed(Linf(EPS), 0.4, progress).eps for progress in grid]
    assert all(0 < low <= high for low, high in zip(grown, grown[1:], strict=False))
    assert warmed(Linf(EPS), 0.4, 0.1).eps == pytest.approx(EPS / 4)
    assert [warmed(L2(2.0), 0.4, progress) for progress in (0.4, 0.9)] == [L2(2.0), L2(2.0)]
    assert warmed(Linf(EPS), 0.0, 0.0) == Linf(EPS)


OBJECTIVES: list[Callable[[], Objective]] = [
    Natural,
    lambda: Adversarial(Linf(EPS), n_steps=2),
    lambda: Fast(Linf(EPS)),
    lambda: Fast(Linf(EPS), "n-fgsm"),
    lambda: Trades(Linf(EPS), n_steps=2),
]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_calls_the_model_once_in_training_mode_and_leaves_nothing_behind(
    objective: Callable[[], Objective], x: Tensor, y: Tensor
) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).train()
    objective()(model, x, y, step=step_for(model, 16))
    assert all(module.training for module in model.modules())
    assert int(model[1].num_batches_tracked) == 1
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("objective", OBJECTIVES[1:])
def test_the_attack_uses_the_weights_of_this_step(objective: Callable[[], Objective], x: Tensor, y: Tensor) -> None:
    model = linear(torch.ones(D)).train()
    images, engine, keys = seen(model), Engine(model), image_keys(0, torch.arange(16))
    objective()(model, x, y, step=Step(0, 0.5, 1.0, keys, engine))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, D))
    objective()(model, x, y, step=Step(0, 0.5, 1.0, keys, engine))
    objective()(model, x, y, step=Step(0, 0.5, 1.0, keys, Engine(model)))
    stale, refreshed, new = images
    assert torch.equal(refreshed, new)
    assert not torch.equal(refreshed, stale)
