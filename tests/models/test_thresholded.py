"""Thresholds at eps and 1 - eps: black and white cannot be changed, and attacks see through the flat parts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from casemate import PGD, Linf, image_keys
from casemate.errors import CasemateError
from casemate.models import thresholded
from casemate.models.thresholded import Ramp
from casemate.testing import check_defence

EPS = 0.3


def test_a_layer_of_thresholds_keeps_the_word_of_a_defence() -> None:
    check_defence(Ramp(EPS), image_shape=(1, 6, 6))


@given(st.floats(0.01, 0.45), st.integers(0, 2**31))
def test_black_and_white_are_what_they_are_under_any_change_of_eps(eps: float, seed: int) -> None:
    x = torch.randint(0, 2, (4, 1, 5, 5), generator=torch.Generator().manual_seed(seed)).float()
    threat = Linf(eps)
    x_adv = threat.sample(x, image_keys(seed, torch.arange(4)))
    assert threat.contains(x_adv, x).all()
    torch.testing.assert_close(Ramp(eps)(x_adv), x, atol=1e-6, rtol=0)


def test_the_ramp_is_what_two_rectified_units_make() -> None:
    x = torch.linspace(0, 1, 101).view(1, 1, 1, 101)
    units = (nn.functional.relu(x - EPS) - nn.functional.relu(x - (1 - EPS))) / (1 - 2 * EPS)
    torch.testing.assert_close(Ramp(EPS)(x), units, atol=1e-6, rtol=0)


def test_a_search_moves_pixels_whose_own_gradient_is_zero() -> None:
    """One grey pixel decides. At 0.1 the ramp is flat, and 0.3 more brings it a quarter of the way up."""
    layer = nn.Linear(1, 2, bias=True)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0], [1.0]]))
        layer.bias.copy_(torch.tensor([0.0, -0.2]))
    model = nn.Sequential(Ramp(EPS), nn.Flatten(), layer).eval()
    x, y = torch.full((1, 1, 1, 1), 0.1), torch.tensor([0])
    x_adv = PGD(n_steps=5, random_start=False)(model, x, y, Linf(EPS), keys=image_keys(0, torch.arange(1)))
    assert model(x_adv).argmax() == 1
    assert Ramp(EPS)(x_adv).item() == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize("eps", [-0.1, 0.5, float("nan")])
def test_thresholds_that_are_not_apart_are_refused(eps: float) -> None:
    with pytest.raises(CasemateError, match=r"\[0, 0\.5\)"):
        thresholded(eps=eps)
