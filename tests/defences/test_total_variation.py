"""The smoothest image is found: closed forms on a line, a slow solver on digits, nothing from the dropped pixels."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from casemate import rng
from casemate.data import load
from casemate.defences import TotalVariation
from casemate.defences.total_variation import _smoothest
from casemate.errors import CasemateError
from casemate.testing import check_defence

TOLERANCE = 0.03


def drawn(layer: TotalVariation, x: Tensor) -> Tensor:
    with rng.drawing_from(rng.image_keys(0, torch.arange(len(x)))):
        return layer(x)


def total(z: np.ndarray, x: np.ndarray, kept: np.ndarray, weight: float, blur: float = 0) -> float:
    """What is minimised, for one channel; `blur` rounds the corner of the absolute value."""
    slopes = np.concatenate([np.diff(z, axis=0).ravel(), np.diff(z, axis=1).ravel()])
    return float((kept * (z - x) ** 2).sum() + weight * np.sqrt(slopes**2 + blur**2).sum())


def slow(x: np.ndarray, kept: np.ndarray, weight: float) -> np.ndarray:
    """The minimum by L-BFGS with the corner rounded less and less; it knows the problem from `total` and its slope."""
    z = np.where(kept > 0, x, 0.5)
    for blur in (1e-1, 1e-2, 1e-3, 1e-4):

        def slope(flat: np.ndarray, blur: float = blur) -> np.ndarray:
            z = flat.reshape(x.shape)
            answer = 2 * kept * (z - x)
            for axis in (0, 1):
                change = np.diff(z, axis=axis)
                pull = weight * change / np.sqrt(change**2 + blur**2)
                answer[tuple(slice(1, None) if axis == a else slice(None) for a in (0, 1))] += pull
                answer[tuple(slice(None, -1) if axis == a else slice(None) for a in (0, 1))] -= pull
            return answer.ravel()

        found = minimize(
            lambda flat, blur=blur: total(flat.reshape(x.shape), x, kept, weight, blur),
            z.ravel(),
            jac=slope,
            method="L-BFGS-B",
            options={"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-9},
        )
        z = found.x.reshape(x.shape)
    return z


@pytest.mark.parametrize("layer", [TotalVariation(), TotalVariation(drop_rate=0)])
@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 8, 9)])
def test_conforms(layer: TotalVariation, image_shape: tuple[int, ...]) -> None:
    check_defence(layer, image_shape=image_shape)


@pytest.mark.parametrize("upright", [True, False])
def test_two_plateaus_approach_each_other_as_the_formula_says(upright: bool) -> None:
    line = torch.tensor([0.2] * 3 + [0.9] * 5).view(1, 1, 1, 8)
    # 2 n (z - x) = weight on either side of the jump.
    expected = torch.tensor([0.2 + 0.03 / 6] * 3 + [0.9 - 0.03 / 10] * 5).view(1, 1, 1, 8)
    answer = TotalVariation(drop_rate=0, n_steps=1000)(line.mT if upright else line)
    assert torch.allclose(answer, expected.mT if upright else expected, atol=1e-4)


def test_plateaus_of_few_kept_pixels_approach_each_other_further() -> None:
    kept = torch.tensor([0.0, 1, 0, 1, 1, 0, 0, 1]).view(1, 1, 1, 8)
    line = torch.tensor([0.5, 0.2, 0.7, 0.9, 0.9, 0.1, 0.3, 0.9]).view(1, 1, 1, 8)
    answer = _smoothest(line, kept, 0.03, 1000).flatten()
    expected = torch.tensor([0.2 + 0.03 / 2] * 2 + [0.9 - 0.03 / 6] * 5)
    assert torch.allclose(answer[[0, 1, 3, 4, 5, 6, 7]], expected, atol=1e-4)
    # Between the plateaus any value is as good.
    assert expected[0] - 1e-4 <= answer[2] <= expected[-1] + 1e-4


def test_a_large_weight_leaves_the_mean() -> None:
    x = torch.rand(3, 2, 6, 7)
    answer = TotalVariation(drop_rate=0, weight=2, n_steps=2000)(x)
    assert torch.allclose(answer, x.mean(dim=(2, 3), keepdim=True).expand_as(x), atol=1e-3)


def test_the_sum_is_within_its_tolerance_of_what_a_slow_solver_finds() -> None:
    images = load("digits-sample", "test", limit=4).images[..., 6:22, 6:22]
    kept = (torch.rand(4, 1, 16, 16) < 0.5).float()
    layer = TotalVariation()
    answer = _smoothest(images, kept, layer.weight, layer.n_steps)
    for z, x, mask in zip(answer.double().numpy(), images.double().numpy(), kept.numpy(), strict=True):
        reference = slow(x[0], mask[0], layer.weight)
        ours, theirs = (total(found, x[0], mask[0], layer.weight) for found in (z[0], reference))
        assert ours <= (1 + TOLERANCE) * theirs
        # The reference is one: doing nothing, or coming as close as ours may be, would not do.
        assert theirs <= (1 + TOLERANCE / 10) * ours


def test_dropped_pixels_have_no_say() -> None:
    x, other, kept = torch.rand(4, 3, 12, 12), torch.rand(4, 3, 12, 12), (torch.rand(4, 1, 12, 12) < 0.5).float()
    mixed = torch.where(kept > 0, x, other)
    assert torch.equal(_smoothest(x, kept, 0.03, 100), _smoothest(mixed, kept, 0.03, 100))


@pytest.mark.parametrize("drop_rate", [0.2, 0.5])
def test_pixels_are_dropped_whole_and_at_the_rate_that_is_set(drop_rate: float) -> None:
    x = torch.rand(8, 3, 32, 32)
    # Almost no weight, so that a kept pixel stays as it is and a dropped one, set to the mean, does not.
    same = (drawn(TotalVariation(drop_rate, 1e-9), x) - x).abs() < 1e-6
    assert torch.equal(same, same[:, :1].expand_as(same))
    # Hoeffding: the share of 8,192 pixels is 0.04 off with probability 2 exp(-2 8192 0.04^2) < 1e-11.
    assert same.float().mean() == pytest.approx(1 - drop_rate, abs=0.04)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"drop_rate": 1.0}, "some pixels must be kept"),
        ({"drop_rate": -0.1}, "some pixels must be kept"),
        ({"weight": 0.0}, "must be positive"),
        ({"n_steps": 0}, "n_steps must be a whole number"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(CasemateError, match=sentence):
        TotalVariation(**settings)
