"""Resizing and padding does what torch's own do, at the sizes and places of the paper, each as often."""

import pytest
import torch
from torch import Tensor, nn

from casemate import rng
from casemate.defences import ResizePad
from casemate.errors import CasemateError
from casemate.testing import check_defence


def drawn(defence: nn.Module, x: Tensor) -> Tensor:
    with rng.drawing_from(rng.image_keys(0, torch.arange(len(x)))):
        return defence(x)


def extent(within: Tensor) -> tuple[Tensor, Tensor]:
    """First line and number of lines for each row of a mask [N, lines]."""
    return within.int().argmax(dim=1), within.sum(dim=1)


@pytest.mark.parametrize(
    ("ratio", "image_shape", "output_shape"),
    [(331 / 299, (3, 8, 9), (3, 9, 10)), (331 / 299, (1, 28, 28), (1, 31, 31)), (1.25, (3, 32, 32), (3, 40, 40))],
)
def test_conforms(ratio: float, image_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
    check_defence(ResizePad(ratio), image_shape=image_shape, output_shape=output_shape)


@pytest.mark.parametrize(("side", "outer"), [(299, 331), (32, 36), (28, 31)])
def test_the_default_is_the_papers_size_scaled(side: int, outer: int) -> None:
    assert ResizePad()(torch.zeros(1, 1, side, side)).shape == (1, 1, outer, outer)


@pytest.mark.parametrize("size", [(16, 16), (20, 11)])
def test_the_image_is_resized_as_torch_does_and_black_is_around_it(size: tuple[int, int]) -> None:
    x = 0.1 + 0.9 * torch.rand(60, 3, *size)
    answer = drawn(ResizePad(1.4), x)
    within = answer[:, 0] > 0
    tops, heights = extent(within.any(dim=2))
    lefts, widths = extent(within.any(dim=1))
    for image, padded, top, left, height, width in zip(x, answer, tops, lefts, heights, widths, strict=True):
        resized = nn.functional.interpolate(image[None], (int(height), int(width)), mode="bilinear")[0]
        below, right = padded.shape[1] - top - height, padded.shape[2] - left - width
        expected = nn.functional.pad(resized, (int(left), int(right), int(top), int(below)))
        assert torch.allclose(padded, expected, atol=1e-5)


def test_every_size_and_place_of_the_paper_occurs_and_no_other() -> None:
    n = 4000
    answer = drawn(ResizePad(1.5), torch.ones(n, 1, 8, 8))[:, 0] > 0
    tops, heights = extent(answer.any(dim=2))
    lefts, widths = extent(answer.any(dim=1))
    assert torch.equal(heights, widths)
    seen = set(zip(heights.tolist(), tops.tolist(), lefts.tolist(), strict=True))
    places = {(side, top, left) for side in range(8, 12) for top in range(13 - side) for left in range(13 - side)}
    # Each of the 54 has probability 1/100 or more: one is missing with probability 54 (99/100)^4000 < 1e-15.
    assert seen == places
    # Hoeffding: a share of n draws is 0.05 off with probability 2 exp(-2 n 0.05^2) < 1e-8.
    shares = torch.bincount(heights, minlength=12)[8:] / n
    assert (shares - 0.25).abs().max() < 0.05


def test_the_gradient_is_that_of_the_same_draw() -> None:
    x = torch.rand(5, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(drawn(ResizePad(1.5), x).sum(), x)
    other = torch.rand_like(x)
    with torch.no_grad():
        change = drawn(ResizePad(1.5), other).sum() - drawn(ResizePad(1.5), x).sum()
        # The map of one draw is linear, so the gradient gives the whole change.
        assert torch.allclose(change, (gradient * (other - x)).sum(), rtol=1e-3)


@pytest.mark.parametrize("ratio", [1.0, 0.5, float("inf"), float("nan")])
def test_images_that_would_not_grow_are_refused(ratio: float) -> None:
    with pytest.raises(CasemateError, match="ratio is above 1"):
        ResizePad(ratio)
