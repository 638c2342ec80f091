"""The start of a decision-based search and its bisection."""

import pytest
import torch
from attack_toys import SHAPE, Affine, keys, near_grey, zeros
from torch import Tensor, nn

from casemate import L2, Linf
from casemate.attacks.decisions import _noise, approach, begin, to_boundary
from casemate.attacks.nearest import Search
from casemate.testing import models
from casemate.threat import Threat


def search_on(model: nn.Module, x: Tensor, threat: Threat) -> Search:
    return Search(model, x, zeros(len(x)), threat, keys=keys(len(x)), who="a test", norms=("l2", "linf"))


@pytest.mark.parametrize("threat", [L2(1), Linf(0.1)], ids=str)
def test_approach_goes_as_far_as_it_is_told(threat: Threat) -> None:
    x, points = models.images(6, SHAPE), models.images(6, SHAPE, seed=1)
    whole = threat.measure(points, x)
    half = approach(threat, x, points, whole / 2)
    assert torch.allclose(threat.measure(half, x), whole / 2, rtol=1e-6)
    assert torch.equal(approach(threat, x, points, 2 * whole), points)
    assert torch.equal(approach(threat, x, points, whole * torch.inf), points)
    assert torch.equal(approach(threat, x, points, 0 * whole), x)
    # The segment in l2; in linf the small changes stay whole.
    expected = (x + points) / 2
    if isinstance(threat, Linf):
        limit = (whole / 2).float().view(-1, 1, 1, 1)
        expected = x + (points - x).clamp(-limit, limit)
    assert torch.allclose(half, expected, atol=1e-6)


@pytest.mark.parametrize("threat", [L2(1), Linf(0.1)], ids=str)
def test_bisection_ends_at_the_boundary(threat: Threat) -> None:
    model, x = Affine(2), near_grey(5)
    search = search_on(model, x, threat)
    normal = (model.weight[1] - model.weight[0]).view(SHAPE)
    far = (x + 0.1 * normal).clamp(0, 1)
    near = to_boundary(search, far, search.index, 12)
    reach, whole = threat.measure(near, x), threat.measure(far, x)
    assert (model(near).argmax(dim=1) == 1).all()
    assert (model(approach(threat, x, far, reach - 2**-11 * whole)).argmax(dim=1) == 0).all()
    assert torch.equal(search.best, near)


def test_every_start_is_wrong_and_at_the_boundary() -> None:
    model, x = Affine(10), near_grey(8)
    search = search_on(model, x, L2(1))
    begin(search, 20)
    found = search.distance.isfinite()
    assert found.all()
    assert (model(search.best).argmax(dim=1) != 0).all()
    assert (search.distance >= model.distance(x, dual=2) * (1 - 1e-5)).all()
    inwards = approach(search.threat, x, search.best, 0.98 * search.distance)
    assert (model(inwards).argmax(dim=1) == 0).all()


def test_more_starts_are_nearer() -> None:
    distances = []
    for n_starts in (4, 50):
        search = search_on(Affine(10), near_grey(8), L2(1))
        begin(search, n_starts)
        distances.append(search.distance)
    few, many = distances
    assert (many <= few).all()
    assert many.median() < 0.9 * few.median()


class Smooth(nn.Module):
    """Class 1 only for images without fine structure and brighter than most: no pixel noise gets there."""

    def forward(self, x: Tensor) -> Tensor:
        rough = (x.diff(dim=3).abs().mean(dim=(1, 2, 3)) - 0.15).relu()
        ahead = x.mean(dim=(1, 2, 3)) - 0.55 - 10 * rough
        return torch.stack([-ahead, ahead], dim=1)


def test_a_class_that_pixel_noise_never_reaches_is_reached_by_coarser_noise() -> None:
    x = near_grey(4, (1, 16, 16))
    pixels = torch.cat([_noise(keys(4, seed), x.shape[1:], 0) for seed in range(10)])
    assert (Smooth()(pixels).argmax(dim=1) == 0).all()
    search = search_on(Smooth(), x, L2(1))
    begin(search, 50)
    assert search.distance.isfinite().all()


def test_noise_is_on_cells_up_to_a_single_colour() -> None:
    sides = set()
    for draw in range(8):
        noise = _noise(keys(2), torch.Size((3, 6, 9)), draw)
        assert noise.shape == (2, 3, 6, 9)
        assert (noise != noise[:, :, :1, :1]).any() == (draw != 7)
        sides.add(len(noise[0, 0].unique()))
    # Sides 1, 2, 4, 8 and 16 on 6 by 9 pixels.
    assert sides == {54, 15, 6, 2, 1}
