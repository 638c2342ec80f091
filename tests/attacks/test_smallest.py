"""Bisection over the radius against closed forms, what it keeps, and what it costs."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from attack_toys import SHAPE, Affine, Counted, Unmoved, at_distances, keys, near_grey, zeros
from torch import Tensor

from casemate import L2, PGD, Linf, rng
from casemate.attacks.smallest import smallest
from casemate.errors import CasemateError
from casemate.gradients import Classifier
from casemate.losses import margin
from casemate.testing import models
from casemate.threat import Threat

LINEAR = models.Linear(SHAPE)


def test_linf_radii_of_a_linear_classifier_are_exact_to_the_tolerance() -> None:
    known = torch.cat([torch.tensor([-0.1, 0.001, 0.349, 0.4]), 0.3 * torch.rand(60)])
    x = at_distances(LINEAR, known)
    found = smallest(LINEAR, x, zeros(64), Linf(0.35), PGD(n_steps=10), keys=keys(64), tolerance=0.01)
    assert found.distance[0] == 0
    assert found.distance[3].isinf()
    assert torch.equal(found.x_adv[[0, 3]], x[[0, 3]])
    reached = torch.arange(64) % 64 != 3
    reached[0] = False
    assert (found.distance[reached] >= known[reached] - 1e-6).all()
    assert (found.distance[reached] <= known[reached] + 0.01 + 1e-6).all()
    torch.testing.assert_close(found.distance[reached], Linf(1).measure(found.x_adv, x)[reached])
    assert (margin(LINEAR(found.x_adv), zeros(64)) > 0)[reached].all()


@pytest.mark.parametrize(("threat", "dual"), [(Linf(0.4), 1), (L2(3.0), 2)], ids=str)
def test_radii_of_an_affine_classifier(threat: Linf | L2, dual: int) -> None:
    model, x = Affine(2), near_grey(20)
    known = model.distance(x, dual=dual)
    attack, tolerance = PGD(n_steps=20), threat.eps / 100
    found = smallest(model, x, zeros(20), threat, attack, keys=keys(20), tolerance=tolerance)
    assert (found.distance >= known * (1 - 1e-5)).all()
    assert (found.distance <= known * 1.02 + tolerance).all()


@dataclass(frozen=True)
class Oracle:
    """Knows the linear classifier: goes beyond its plane by the shortest way, and no further, where it is in reach.

    `silent_above` is a radius above which it gives up, and `cheats` leaves the threat model by so much.
    """

    silent_above: float = math.inf
    cheats: float = 0.0
    radii: list[tuple[float, int]] = field(default_factory=list)

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, threat: Threat, *, keys: rng.Keys) -> Tensor:
        self.radii.append((threat.eps, len(x)))
        ahead = -margin(LINEAR(x), y) / LINEAR.weight.abs().sum() + 1e-5
        reached = (ahead <= threat.eps + self.cheats) & (threat.eps <= self.silent_above)
        return x + torch.where(reached, ahead, 0.0).view(-1, 1, 1, 1) * LINEAR.weight.sign()


def test_a_point_well_inside_the_ball_is_kept_and_bisection_goes_on_from_there() -> None:
    oracle = Oracle()
    x = at_distances(LINEAR, torch.tensor([0.0305]))
    found = smallest(LINEAR, x, zeros(1), Linf(1.0), oracle, keys=keys(1), tolerance=1 / 1000)
    assert found.distance.item() == pytest.approx(0.0305, abs=2e-5)
    # The first success leaves 30 radii instead of 999: five halvings, not ten.
    assert len(oracle.radii) <= 6
    assert oracle.radii[0] == (1.0, 1)
    failed = max(eps for eps, _ in oracle.radii if eps < 0.0305)
    assert failed >= found.distance.item() - 1 / 1000


def test_points_outside_the_threat_model_do_not_count() -> None:
    x = at_distances(LINEAR, torch.tensor([0.2, 0.05]))
    found = smallest(LINEAR, x, zeros(2), Linf(0.1), Oracle(cheats=0.15), keys=keys(2), tolerance=0.01)
    assert found.distance[0].isinf()
    assert found.distance[1].item() == pytest.approx(0.05, abs=2e-5)
    assert torch.equal(found.x_adv[0], x[0])


def test_an_attack_that_fails_at_the_largest_radius_is_asked_once() -> None:
    oracle = Oracle(silent_above=0.5)
    x = at_distances(LINEAR, torch.tensor([0.1, 0.1]))
    found = smallest(LINEAR, x, zeros(2), Linf(1.0), oracle, keys=keys(2), tolerance=0.01)
    assert found.distance.isinf().all()
    assert oracle.radii == [(1.0, 2)]


def test_every_image_is_attacked_a_logarithmic_number_of_times_and_misclassified_ones_never() -> None:
    distances = torch.cat([torch.full((50,), -0.1), torch.full((10,), 0.48), 0.02 + 0.3 * torch.rand(40)])
    oracle = Oracle()
    x = at_distances(LINEAR, distances)
    smallest(LINEAR, x, zeros(100), Linf(0.4), oracle, keys=keys(100), tolerance=0.4 / 64)
    assert oracle.radii[0] == (0.4, 50)
    assert sum(n for _, n in oracle.radii[1:]) <= 40 * 6
    # Images at the same radius are one batch, whenever they came to it.
    assert len({eps for eps, _ in oracle.radii}) == len(oracle.radii)
    assert all(eps * 64 / 0.4 == pytest.approx(round(eps * 64 / 0.4)) for eps, _ in oracle.radii)


@pytest.mark.usefixtures("_in_eights")
def test_cost_follows_the_images_that_are_not_settled() -> None:
    settled = Counted(LINEAR)
    x = at_distances(LINEAR, torch.cat([torch.full((96,), 0.4), torch.tensor([0.1] * 8)]))
    smallest(settled, x, zeros(104), Linf(0.3), PGD(n_steps=5), keys=keys(104), tolerance=0.3 / 16)
    # All of them once at 0.3, and eight of them four times more, each time at most 5 gradients.
    assert settled.counts["gradients"] <= 5 * 104 + 4 * 5 * 8


def test_an_image_gets_the_same_answer_in_any_batch() -> None:
    model = models.seeded(lambda: models.Rippled(SHAPE))
    x = models.images(12, SHAPE)
    y = model(x).argmax(dim=1)

    def found(at: slice) -> tuple[Tensor, Tensor]:
        got = smallest(model, x[at], y[at], Linf(0.2), PGD(n_steps=3), keys=keys(12)[at], tolerance=0.01)
        return got.x_adv, got.distance

    x_adv, distance = found(slice(12))
    assert len(distance.unique()) > 4
    for at in (slice(5), slice(5, 12)):
        own_x_adv, own_distance = found(at)
        assert torch.equal(own_x_adv, x_adv[at])
        assert torch.equal(own_distance, distance[at])


def test_what_cannot_be_broken_has_no_distance() -> None:
    x = models.images(3, SHAPE)
    found = smallest(Unmoved(), x, zeros(3), Linf(1.0), PGD(n_steps=2), keys=keys(3), tolerance=0.5)
    assert found.distance.isinf().all()
    assert torch.equal(found.x_adv, x)


@pytest.mark.parametrize("tolerance", [0.0, -0.1, 0.31, math.nan])
def test_a_tolerance_that_makes_no_bisection_is_refused(tolerance: float) -> None:
    x = models.images(1, SHAPE)
    with pytest.raises(CasemateError, match=r"tolerance of a bisection up to linf:0.3 is in \(0, 0.3\]"):
        smallest(LINEAR, x, zeros(1), Linf(0.3), PGD(), keys=keys(1), tolerance=tolerance)
