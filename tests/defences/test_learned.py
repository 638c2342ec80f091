"""A learned surrogate points where the layer's answer really goes, and changes nothing of the answer."""

import pytest
import torch
from torch import Tensor, nn

from casemate import rng
from casemate.defences import BitDepth, Thermometer, learned_surrogate
from casemate.defences.learned import Imitation, near
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import margin
from casemate.testing import check_defence, models

SHAPE = (1, 8, 8)


class Halved(nn.Module):
    """Every other row and column, in 8 levels: no gradient, and another size."""

    def forward(self, x: Tensor) -> Tensor:
        return (7 * x[:, :, ::2, ::2]).round() / 7


class Mean(nn.Module):
    """One number an image, in 64 levels."""

    def forward(self, x: Tensor) -> Tensor:
        return (64 * x.flatten(1).mean(dim=1, keepdim=True)).round() / 64


@pytest.mark.parametrize(
    "layer", [BitDepth(2), Thermometer(8), Halved(), Mean()], ids=lambda layer: type(layer).__name__
)
def test_a_step_along_the_surrogate_raises_what_the_layer_answers(layer: nn.Module) -> None:
    seen, held_out = models.images(100, SHAPE), models.images(100, SHAPE, seed=1)
    radius = 0.2
    taught = learned_surrogate(layer, seen, radius)
    with torch.no_grad():
        assert torch.equal(taught(held_out), layer(held_out))
    weights = rng.normal(rng.image_keys(2, torch.arange(1)), taught(held_out[:1]).shape[1:])
    leaf = held_out.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((taught.surrogate(leaf) * weights).sum(), leaf)

    def value(x: Tensor) -> Tensor:
        return (layer(x) * weights).flatten(1).sum(dim=1)

    step = radius * gradient.sign()
    with torch.no_grad():
        rose = value((held_out + step).clamp(0, 1)) - value((held_out - step).clamp(0, 1))
    # The check of the spec is 60%; a surrogate that says nothing is right in half of them, give or take 5%.
    assert (rose > 0).float().mean() > 0.9


def test_it_is_a_defence_that_attacks_see_through() -> None:
    layer = learned_surrogate(BitDepth(2), models.images(50, SHAPE), 0.1)
    check_defence(layer, image_shape=SHAPE)
    model = nn.Sequential(layer, models.Linear(SHAPE)).eval()
    x = models.images(8, SHAPE)
    gradient, logits = Engine(model, precision="float32").gradient(x, torch.zeros(8, dtype=torch.int64), margin)
    torch.testing.assert_close(logits, model(x))
    exact, _ = Engine(models.Linear(SHAPE), precision="float32").gradient(x, torch.zeros(8, dtype=torch.int64), margin)
    assert (torch.cosine_similarity(gradient.flatten(1), exact.flatten(1)) > 0.5).all()


def test_a_random_layer_stays_one() -> None:
    class Noisy(nn.Module):
        stochastic = True

        def forward(self, x: Tensor) -> Tensor:
            return (7 * (x + 0.1 * rng.normal(rng.layer_keys(x, "noise"), x.shape[1:])).clamp(0, 1)).round() / 7

    layer = learned_surrogate(Noisy(), models.images(50, SHAPE), 0.1)
    assert layer.stochastic
    check_defence(layer, image_shape=SHAPE)


def test_what_is_learnt_depends_on_images_and_seed_alone_and_leaves_no_trace() -> None:
    x, state = models.images(20, SHAPE), torch.get_rng_state()
    first, again, other = (learned_surrogate(BitDepth(2), x, 0.1, seed=seed).taught for seed in (0, 0, 1))
    weights = [
        torch.cat([value.flatten() for value in taught.state_dict().values()]) for taught in (first, again, other)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(weight.requires_grad for weight in first.parameters())


def test_images_nearby_are_images_within_the_radius_of_mixtures() -> None:
    x = models.images(4, SHAPE)
    keys = rng.image_keys(0, torch.arange(200))
    moved = near(x, 0.1, keys)
    assert moved.shape == (200, *SHAPE)
    assert ((moved >= 0) & (moved <= 1)).all()
    # With one image there is nothing to mix.
    single = near(x[:1], 0.1, keys)
    distance = (single - x[:1]).abs().flatten(1).amax(dim=1)
    assert distance.max() <= 0.1 + 1e-6
    assert distance.max() > 0.08
    assert torch.equal(near(x, 0.1, keys[50:60]), moved[50:60])


def test_what_cannot_be_learnt_is_refused() -> None:
    with pytest.raises(CasemateError, match="no small network leads from values"):
        Imitation((3, 224, 224), (50_000,))
    with pytest.raises(CasemateError, match="at least 1"):
        learned_surrogate(BitDepth(2), models.images(0, SHAPE), 0.1)
