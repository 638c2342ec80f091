"""Matched radii against exact values, volumes and samples; the shape of a change against changes of known shape."""

import math

import pytest
import torch
from paper_toys import keys

from casemate.papers.madry2018 import radii, shape
from casemate.testing import models
from casemate.threat import L2, Linf

MNIST, CIFAR10, IMAGENET = 28 * 28, 32 * 32 * 3, 224 * 224 * 3


@pytest.mark.parametrize(
    ("eps", "n", "corner", "typical", "volume"),
    [(0.3, MNIST, 8.40, 4.85, 4.09), (8 / 255, CIFAR10, 1.74, 1.00, 0.84), (4 / 255, IMAGENET, 6.09, 3.51, 2.95)],
)
def test_matches_of_the_usual_radii(eps: float, n: int, corner: float, typical: float, volume: float) -> None:
    assert radii.corner(eps, n) == pytest.approx(corner, abs=0.005)
    assert radii.typical(eps, n) == pytest.approx(typical, abs=0.005)
    assert radii.equal_volume(eps, n) == pytest.approx(volume, abs=0.005)
    assert radii.same_number(eps, n) == eps


@pytest.mark.parametrize(("n", "unit_ball"), [(1, 2), (2, math.pi), (3, 4 / 3 * math.pi), (4, math.pi**2 / 2)])
def test_balls_of_equal_volume_have_it(n: int, unit_ball: float) -> None:
    assert unit_ball * radii.equal_volume(0.3, n) ** n == pytest.approx(0.6**n)


def test_a_typical_point_is_that_of_the_samples() -> None:
    """Grey images, from which the box is out of reach."""
    x = torch.full((2000, 1, 8, 8), 0.5)
    distance = L2(1).measure(Linf(0.3).sample(x, keys(2000)), x)
    assert distance.square().mean().sqrt().item() == pytest.approx(radii.typical(0.3, 64), rel=0.01)
    assert distance.std().item() == pytest.approx(0.3 / math.sqrt(15), rel=0.05)
    assert radii.within_box(x[:1], 0.3).item() == pytest.approx(radii.typical(0.3, 64))


@pytest.mark.parametrize("eps", [0.1, 0.7])
def test_within_the_box_is_what_the_box_leaves_of_the_samples(eps: float) -> None:
    images = models.images(3, (2, 4, 4), seed=2)
    images[0] = 0
    expected = radii.within_box(images, eps)
    for x, distance in zip(images, expected, strict=True):
        copies = x.expand(4000, -1, -1, -1)
        sampled = L2(1).measure(Linf(eps).sample(copies, keys(4000)), copies).square().mean().sqrt()
        assert distance.item() == pytest.approx(sampled.item(), rel=0.02)
    # From black one way is closed, and half the points stay where they are.
    assert expected[0].item() == pytest.approx(radii.typical(eps, 32) / math.sqrt(2))


def test_every_match_is_asked_at_once() -> None:
    x = torch.zeros(2, 1, 28, 28)
    found = radii.matched(x, 0.3)
    assert set(found) == {*radii.MATCHES, radii.WITHIN_BOX}
    assert found[radii.SAME_NUMBER] == 0.3
    assert found[radii.WITHIN_BOX] == pytest.approx(0.3 * math.sqrt(784 / 6))


def test_kappa_and_share_of_changes_of_known_shape() -> None:
    x = torch.full((4, 3, 4, 4), 0.5)
    x_adv = x.clone()
    x_adv[0] += 0.25 * torch.randn(3, 4, 4).sign()
    x_adv[1, 2, 1, 1] = 0.75
    x_adv[2, :, :2] = 0.25
    found = shape.kappa(x_adv, x)
    assert found[:3].tolist() == pytest.approx([1, 1 / math.sqrt(48), math.sqrt(0.5)])
    assert found[3].isnan()
    # A pixel is one position, whatever its colours.
    assert shape.share(x_adv, x).tolist() == [1, 1 / 16, 0.5, 0]
