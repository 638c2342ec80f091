"""The thermometer code, the ramp an attack sees in its place, and what both are together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from casemate import PGD, Linf, image_keys
from casemate.defences import Thermometer
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import margin
from casemate.testing import check_defence, models


class Decoded(nn.Module):
    """The mean of the planes of each channel: an image again, as the suite for defences wants it."""

    stochastic = False

    def __init__(self, n_levels: int) -> None:
        super().__init__()
        self.code = Thermometer(n_levels)

    def forward(self, x: Tensor) -> Tensor:
        return self._mean(self.code(x))

    def surrogate(self, x: Tensor) -> Tensor:
        return self._mean(self.code.surrogate(x))

    def _mean(self, planes: Tensor) -> Tensor:
        return planes.unflatten(1, (-1, self.code.n_levels)).mean(dim=2)


@pytest.mark.parametrize("image_shape", [(1, 6, 7), (3, 5, 5)])
def test_it_keeps_the_word_of_a_defence(image_shape: tuple[int, ...]) -> None:
    check_defence(Decoded(16), image_shape=image_shape)


def test_the_code_of_a_colour_image_by_hand() -> None:
    x = torch.tensor([0.0, 0.25, 0.26, 0.5, 0.75, 1.0]).view(1, 2, 1, 3)
    code = Thermometer(4)(x)
    assert code.shape == (1, 8, 1, 3)
    # The planes of the first channel, then those of the second; a value at a level has not passed it.
    rows = code.view(2, 4, 3)
    assert rows[0].T.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]
    assert rows[1].T.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@given(st.integers(2, 40), st.integers(0, 2**31))
def test_the_planes_count_the_levels_passed_and_the_ramps_sum_to_the_value(n_levels: int, seed: int) -> None:
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    code, ramps = Decoded(n_levels)(x), Decoded(n_levels).surrogate(x)
    torch.testing.assert_close(code * n_levels, (x * n_levels).ceil(), atol=1e-4, rtol=0)
    torch.testing.assert_close(ramps, x, atol=1e-6, rtol=0)


def test_the_gradient_an_attack_sees_is_that_of_the_plane_whose_bin_the_value_is_in() -> None:
    n_levels, x = 4, torch.tensor([[0.0, 0.1, 0.3, 0.6, 0.95, 1.0]]).view(1, 1, 1, 6)
    head = nn.Linear(24, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.stack([torch.zeros(24), torch.arange(1.0, 25.0)]))
    engine = Engine(nn.Sequential(Thermometer(n_levels), nn.Flatten(), head), precision="float32")
    gradient, logits = engine.gradient(x, torch.tensor([0]), margin)
    bins = torch.tensor([0, 0, 1, 2, 3, 3])
    weights = head.weight[1].view(4, 6)[bins, torch.arange(6)]
    torch.testing.assert_close(gradient.flatten(), n_levels * weights)
    # The answer is that of the code and not of the ramps.
    torch.testing.assert_close(logits, engine.logits(x))


def test_pgd_sees_through_the_code_of_a_linear_classifier() -> None:
    """The step of a linear classifier on the decoded image is known: every image closer than the step is broken."""
    image_shape, threat = (1, 8, 8), Linf(0.1)
    x = 0.3 + 0.4 * models.images(8, image_shape, seed=2)
    # The code moves a value by at most one level, 1/16 for 16 levels: linf 0.1 surely crosses 0.1 - 1/16 of the way.
    gain = models.Linear(image_shape).gain(Decoded(16)(x), Linf(0.1 - 1 / 16))
    model = nn.Sequential(Decoded(16), models.Linear(image_shape, bias=float(gain.min())))
    y = torch.zeros(8, dtype=torch.int64)
    close = -margin(model(x), y) < gain
    x_adv = PGD(n_steps=20)(model, x, y, threat, keys=image_keys(0, torch.arange(8)))
    assert close.any()
    assert (margin(model(x_adv), y)[close] > 0).all()


@pytest.mark.parametrize("n_levels", [1, 0, -3])
def test_less_than_two_levels_are_refused(n_levels: int) -> None:
    with pytest.raises(CasemateError, match="at least 2 levels"):
        Thermometer(n_levels)
