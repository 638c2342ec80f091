"""The model of images predicts from what came before alone; purifying stays near and makes an image likelier."""

import pytest
import torch

from casemate.data import load
from casemate.defences import PixelDefend, PixelModel, fit_pixel_model
from casemate.defences.pixel_model import N_LEVELS
from casemate.errors import CasemateError
from casemate.testing import check_defence

EPS = 16 / 255


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return load("digits-sample", "train").images


@pytest.fixture(scope="module")
def model(digits: torch.Tensor) -> PixelModel:
    return fit_pixel_model(digits, reach=3, width=16, n_steps=60)


def test_conforms(model: PixelModel) -> None:
    check_defence(PixelDefend(model), image_shape=(1, 9, 12))


def test_a_pixel_is_predicted_from_those_before_it_alone(model: PixelModel) -> None:
    x = torch.rand(1, 1, 8, 9)
    before = model(x)
    for row, column in ((0, 0), (3, 4), (7, 8)):
        changed = x.clone()
        changed[0, 0, row, column] = 1 - changed[0, 0, row, column]
        moved = (model(changed) != before).any(dim=-1)[0].flatten()
        place = row * 9 + column
        assert not moved[: place + 1].any()
        # Its right neighbour sees it.
        assert column == 8 or moved[place + 1]


def test_training_makes_digits_likelier_than_chance_and_than_noise(model: PixelModel, digits: torch.Tensor) -> None:
    x = digits[:20]
    chance = -x[0].numel() * torch.tensor(float(N_LEVELS)).log()
    assert (model.log_likelihood(x) > chance / 2).all()
    assert model.log_likelihood(x).min() > model.log_likelihood(torch.rand_like(x)).max()


@pytest.mark.parametrize("eps", [1 / 510, EPS, 0.3])
def test_an_answer_is_a_byte_image_of_the_ball(model: PixelModel, eps: float) -> None:
    x = torch.rand(4, 1, 28, 28)
    answer = PixelDefend(model, eps)(x)
    assert ((answer - x).abs() <= eps + 1e-6).all()
    assert torch.allclose(answer * 255, (answer * 255).round(), atol=1e-4)


def test_purifying_makes_noisy_digits_likelier(model: PixelModel, digits: torch.Tensor) -> None:
    x = digits[:10]
    noisy = (x + EPS * torch.empty_like(x).uniform_(-1, 1).sign()).clamp(0, 1)
    purified = PixelDefend(model)(noisy)
    assert (model.log_likelihood(purified) > model.log_likelihood(noisy)).all()


def test_pixels_that_go_together_answer_as_one_after_the_other(model: PixelModel) -> None:
    """Against the algorithm as it is written: pixel by pixel in raster order, the whole model each time."""
    x = torch.rand(2, 1, 5, 6)
    slow, precise = x.double().clone(), PixelModel(3, 16).double()
    precise.load_state_dict(model.double().state_dict())
    values = torch.arange(N_LEVELS, dtype=torch.float64) / (N_LEVELS - 1)
    for row in range(5):
        for column in range(6):
            likely = precise(slow)[:, row, column]
            near = (values - slow[:, 0, row, column, None]).abs() <= EPS
            slow[:, 0, row, column] = values[likely.masked_fill(~near, -torch.inf).argmax(dim=1)]
    assert torch.allclose(PixelDefend(model.float())(x), slow.float(), atol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1 / 511, 1.5])
def test_an_eps_without_an_answer_is_refused(model: PixelModel, eps: float) -> None:
    with pytest.raises(CasemateError, match="eps must be from 1/510"):
        PixelDefend(model, eps)


def test_colour_and_no_images_are_refused(model: PixelModel) -> None:
    with pytest.raises(CasemateError, match="grey images of 1 channel, not of 3"):
        PixelDefend(model)(torch.rand(1, 3, 8, 8))
    with pytest.raises(CasemateError, match="at least one image"):
        fit_pixel_model(torch.empty(0, 1, 8, 8))
