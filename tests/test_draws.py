"""How many draws a mean gradient takes: the number that the signal and the noise of it call for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from casemate import rng
from casemate.draws import MOST_DRAWS, enough_draws

SHAPE = (1, 20, 20)
N_VALUES = 400


def noisy(ratio: float, *, scale: float = 1.0, n: int = 9, seed: int = 0):  # type: ignore[no-untyped-def]
    """Gradients of a fixed direction under noise whose squared norm is `ratio` times its own, on average."""
    keys = rng.image_keys(seed, torch.arange(n))
    direction = rng.normal(rng.fold(keys, "direction"), SHAPE)

    def gradient(draw: int) -> Tensor:
        return scale * (direction + ratio**0.5 * rng.normal(rng.fold(keys, draw), SHAPE))

    return gradient


# Two means of m draws have a cosine of about 1 / (1 + ratio / m): 0.9 from m = 9 ratio on. In 400 dimensions it
# is within 0.03 of that (its standard deviation is below 0.01 there), so no ratio here is nearer to a power of two.
@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.0, 1), (0.06, 1), (0.16, 2), (0.6, 8), (1.2, 16), (5.0, 64), (50.0, 64)]
)
def test_so_many_that_two_means_agree(ratio: float, expected: int) -> None:
    assert enough_draws(noisy(ratio)) == expected


@given(st.sampled_from([1e-30, 1e-20, 1.0, 1e20]))
def test_the_size_of_the_gradient_does_not_matter(scale: float) -> None:
    assert enough_draws(noisy(0.6, scale=scale)) == 8


def test_half_the_images_decide() -> None:
    def gradient(draw: int) -> Tensor:
        return torch.cat([noisy(0.0, n=5)(draw), noisy(1e6, n=4)(draw)])

    assert enough_draws(gradient) == 1
    assert enough_draws(lambda draw: torch.cat([noisy(0.0, n=4)(draw), torch.zeros(5, *SHAPE)])) == MOST_DRAWS


def test_no_draw_is_used_twice_and_none_beyond_what_is_needed() -> None:
    asked: list[int] = []
    gradient = noisy(1.2)

    def noted(draw: int) -> Tensor:
        asked.append(draw)
        return gradient(draw)

    n_draws = enough_draws(noted)
    assert sorted(asked) == list(range(2 * n_draws))
