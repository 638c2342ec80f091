"""The generator learns, and a projection finds what it makes; more steps and restarts come nearer."""

import pytest
import torch
from torch import Tensor

from casemate import rng
from casemate.data import load
from casemate.defences import DefenseGAN, Generator, fit_generator
from casemate.errors import CasemateError
from casemate.testing import check_defence


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return load("digits-sample", "train").images


@pytest.fixture(scope="module")
def generator(digits: Tensor) -> Generator:
    return fit_generator(digits, n_latent=8, width=32, n_steps=200, lr=5e-3)


def projected(layer: DefenseGAN, x: Tensor) -> Tensor:
    with rng.drawing_from(rng.image_keys(0, torch.arange(len(x)))):
        return layer(x)


def error(layer: DefenseGAN, x: Tensor) -> Tensor:
    return (projected(layer, x) - x).square().flatten(1).sum(dim=1)


def test_conforms() -> None:
    generator = Generator((1, 8, 8), n_latent=4, width=8).requires_grad_(False)
    check_defence(DefenseGAN(generator, n_restarts=3, n_steps=5), image_shape=(1, 8, 8))


def test_more_steps_and_more_restarts_come_nearer(generator: Generator, digits: Tensor) -> None:
    x = digits[:16]
    start, few = (error(DefenseGAN(generator, n_steps=n, n_restarts=1), x) for n in (1, 10))
    many = error(DefenseGAN(generator, n_restarts=1), x)
    assert start.mean() > few.mean() > many.mean()
    # The first restart of one is not the first of ten, so this holds in the mean.
    assert error(DefenseGAN(generator), x).mean() < many.mean()


def test_what_the_generator_makes_is_found(generator: Generator) -> None:
    x = generator(torch.randn(8, 8))
    assert (error(DefenseGAN(generator), x) < 0.01 * x.square().flatten(1).sum(dim=1)).all()


def test_training_moves_the_generator_towards_the_images(generator: Generator, digits: Tensor) -> None:
    untrained = Generator((1, 28, 28), 8, 32)
    z, mean = torch.randn(500, 8), digits.mean(dim=0)
    with torch.no_grad():
        before, after = ((made(z).mean(dim=0) - mean).square().mean() for made in (untrained, generator))
    assert after < before / 4


def test_neither_the_weights_nor_the_random_state_are_touched(digits: Tensor) -> None:
    generator = Generator((1, 28, 28), 8, 32)
    state = torch.get_rng_state()
    fit_generator(digits[:50], n_latent=4, width=4, n_steps=1, batch_size=4)
    assert torch.equal(state, torch.get_rng_state())
    projected(DefenseGAN(generator, n_restarts=2, n_steps=2), digits[:3])
    assert all(weight.grad is None for weight in generator.parameters())


def test_bad_settings_are_refused(generator: Generator) -> None:
    with pytest.raises(CasemateError, match="n_restarts must be a whole number"):
        DefenseGAN(generator, n_restarts=0)
    with pytest.raises(CasemateError, match="step size of the projection must be positive"):
        DefenseGAN(generator, lr=0)
    with pytest.raises(CasemateError, match="makes images"):
        DefenseGAN(generator)(torch.rand(1, 1, 8, 8))
    with pytest.raises(CasemateError, match="at least one image"):
        fit_generator(torch.empty(0, 1, 8, 8))
