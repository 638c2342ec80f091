"""What is proved of a few pixels and of patches, against closed forms and points of every kind."""

import itertools

import pytest
import torch
from bound_toys import SHAPE
from torch import nn

from casemate import rng
from casemate.bounds import CROWN, CROWNIBP, IBP, AlphaCROWN, BranchAndBound, ByZonotopes, Certifier
from casemate.errors import CasemateError
from casemate.losses import margin
from casemate.threat import L0, Patch, Threat

CERTIFIERS = [IBP(), CROWNIBP(), CROWN(), AlphaCROWN(n_steps=5), BranchAndBound(timeout=5)]
THREATS = [L0(1), L0(3), Patch(1, 1), Patch(2, 3)]


def network(scale: float) -> nn.Module:
    """A convolution, strided and padded, with a normalisation before it; `scale` is how much an image changes it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    with torch.no_grad():
        model[0].weight.mul_(scale)
    return model.eval()


def images(n: int) -> torch.Tensor:
    return rng.uniform(rng.image_keys(1, torch.arange(n)), SHAPE)


def points(threat: Threat, x: torch.Tensor) -> list[torch.Tensor]:
    """Drawn at random, and those again with every value at a corner of the box."""
    drawn = [threat.sample(x, rng.image_keys(seed, torch.arange(len(x)))) for seed in range(200)]
    return drawn + [torch.where(point != x, point.round(), x) for point in drawn]


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("certifier", [*CERTIFIERS, ByZonotopes()], ids=lambda certifier: certifier.name)
def test_no_point_has_a_smaller_margin_than_is_proved(certifier: Certifier, threat: Threat) -> None:
    for scale in (0.02, 0.2, 2.0):
        # In the arithmetic of the bounds, so that a point may be as near to them as they are tight.
        model, x = network(scale).double(), images(6)
        y = model(x.double()).argmax(dim=1)
        found = certifier.certify(model, x, y, threat)
        for point in points(threat, x):
            assert threat.contains(point, x).all()
            assert (-margin(model(point.double()), y) >= found.margin).all()


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_something_is_proved_and_what_is_looser_never_proves_more_here(threat: Threat) -> None:
    model, x = network(0.02), images(40)
    y = model(x).argmax(dim=1)
    proved = [int(certifier.certify(model, x, y, threat).holds.sum()) for certifier in CERTIFIERS]
    assert proved == sorted(proved)
    assert proved[0] > 0


@pytest.mark.parametrize("certifier", [*CERTIFIERS, ByZonotopes()], ids=lambda certifier: certifier.name)
def test_a_patch_on_a_linear_classifier_is_decided_exactly(certifier: Certifier) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).eval().double()
    x = images(30)
    y, threat = model(x.double()).argmax(dim=1), Patch(2, 2)
    found = certifier.certify(model, x, y, threat)
    least = torch.stack([_least_in(model, x, y, corner) for corner in threat.corners(6, 6)]).amin(dim=0)
    assert 3 < int((least > 0).sum()) < 27
    assert torch.equal(found.holds, least > 0)
    assert torch.allclose(found.margin[found.holds], least[found.holds], atol=1e-6)
    assert (found.margin[~found.holds] == -torch.inf).all()


def _least_in(model: nn.Module, x: torch.Tensor, y: torch.Tensor, corner: tuple[int, int]) -> torch.Tensor:
    """The least margin over all corners of the box of a window of 2 by 2, for each rival in closed form."""
    weight, bias = model[1].weight, model[1].bias
    row, column = corner
    free = torch.zeros(1, *SHAPE, dtype=torch.bool)
    free[:, :, row : row + 2, column : column + 2] = True
    free, flat = free.flatten(1), x.double().flatten(1)
    margins = []
    for rival in range(3):
        difference = weight[y] - weight[rival]
        worst = torch.where(free, (difference < 0).double(), flat)
        margins.append(torch.where(y == rival, torch.inf, (difference * worst).sum(dim=1) + bias[y] - bias[rival]))
    return torch.stack(margins).amin(dim=0)


@pytest.mark.parametrize("certifier", [CROWN(), CROWNIBP()], ids=lambda certifier: certifier.name)
def test_pixels_of_a_linear_classifier_are_bounded_by_the_most_that_any_choice_does(certifier: Certifier) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 2)).eval().double()
    x = images(20)
    y = model(x.double()).argmax(dim=1)
    found = certifier.certify(model, x, y, L0(2))
    difference = (model[1].weight[y] - model[1].weight[1 - y]).view(-1, *SHAPE)
    loss = torch.where(difference > 0, difference * x, difference * (x - 1)).sum(dim=1).flatten(1)
    # All pairs of pixels, one by one.
    worst = torch.stack([loss[:, a] + loss[:, b] for a, b in itertools.combinations(range(36), 2)]).amax(dim=0)
    exact = -margin(model(x.double()), y) - worst
    assert torch.allclose(found.margin, exact, atol=1e-6)
    assert 0 < int(found.holds.sum()) < 20


def test_the_first_layer_of_intervals_knows_how_few_pixels_move() -> None:
    """One pixel reaches an entry of a convolution by one weight a channel, and by no more."""
    model, x = network(0.05), images(30)
    y = model(x).argmax(dim=1)
    margins = [IBP().certify(model, x, y, L0(pixels)).margin for pixels in (1, 2, 9, 36)]
    assert all((more <= fewer).all() for fewer, more in itertools.pairwise(margins))
    assert (margins[1] < margins[0]).all()
    # A window of the convolution has nine pixels, each of which then moves.
    assert torch.equal(margins[2], margins[3])


def test_an_image_does_not_depend_on_the_others() -> None:
    model, x = network(0.1), images(9)
    y = model(x).argmax(dim=1)
    for threat, certifier in itertools.product((L0(1), Patch(2, 2)), CERTIFIERS[:4]):
        together = certifier.certify(model, x, y, threat)
        alone = [certifier.certify(model, x[at : at + 1], y[at : at + 1], threat).margin for at in range(9)]
        assert torch.equal(together.margin, torch.cat(alone))


@pytest.mark.parametrize("make", [lambda: L0(0), lambda: Patch(0, 2), lambda: Patch(2, -1)])
def test_nothing_is_no_size(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CasemateError, match="whole number"):
        make()
