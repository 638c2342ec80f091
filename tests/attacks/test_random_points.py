"""Random points: inside the threat model, half of them on its rim, and as likely to break as a count says."""

import pytest
import torch
from attack_toys import SHAPE, at_distances, keys, zeros
from torch import Tensor, nn

from casemate.attacks import RandomPoints
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import margin
from casemate.testing import check_attack, models
from casemate.threat import L2, Linf, Threat


def test_keeps_the_promises_of_an_attack() -> None:
    check_attack(RandomPoints(n_points=4), breaks_linear=False)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)])
def test_every_other_point_is_eps_away(threat: Threat) -> None:
    recorded = models.Recorded(models.seeded(lambda: models.Rippled(SHAPE, ahead=20)))
    x = torch.full((8, *SHAPE), 0.5)
    RandomPoints(n_points=4)(Engine(recorded, precision="float32", batch_size=16), x, zeros(8), threat, keys=keys(8))
    tried = [seen[:8] for seen in recorded.seen if not torch.equal(seen[:8], x)]
    distances = [threat.measure(points, x) / threat.eps for points in tried]
    assert len(tried) == 4
    assert all(torch.allclose(away, torch.ones(8, dtype=torch.float64), atol=1e-5) for away in distances[1::2])
    assert all((away < 1 - 1e-4).any() or isinstance(threat, Linf) for away in distances[::2])
    corners = ((tried[1] - x).abs() - 0.1).abs() < 1e-6
    assert bool(corners.all()) == isinstance(threat, Linf)


class Corner(nn.Module):
    """Wrong only where the first pixel is near the rim of a ball of 0.1 around grey: one point in twenty is."""

    def forward(self, x: Tensor) -> Tensor:
        beyond = x[:, 0, 0, 0] - 0.59
        return torch.stack([-beyond, beyond], dim=1)


def test_breaks_what_one_point_in_twenty_breaks() -> None:
    # A uniform point is wrong with probability 0.05, a corner with 1/2: 40 of each miss with probability 1e-13.
    x = torch.full((64, *SHAPE), 0.5)
    x_adv = RandomPoints(n_points=80)(Corner(), x, zeros(64), Linf(0.1), keys=keys(64))
    assert (margin(Corner()(x_adv), zeros(64)) > 0).all()


def test_breaks_little_of_what_a_gradient_breaks() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.full((16,), 0.09))
    assert (
        margin(linear(RandomPoints(n_points=20)(linear, x, zeros(16), Linf(0.1), keys=keys(16))), zeros(16)) <= 0
    ).all()


def test_no_points_are_refused() -> None:
    with pytest.raises(CasemateError, match="at least 1 random point is needed, not 0"):
        RandomPoints(n_points=0)
