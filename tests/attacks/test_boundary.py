"""The Boundary attack against the distances of affine classifiers."""

import math
from dataclasses import replace

import pytest
import torch
from attack_toys import Affine, Hardened, keys, near_grey, zeros

from casemate import L2
from casemate.attacks import Boundary, distance_path
from casemate.attacks.boundary import SOURCE_SUCCESS, _adapted
from casemate.errors import CasemateError
from casemate.testing import check_attack, models

SMALL = (1, 4, 4)


@pytest.mark.parametrize("n_classes", [2, 10])
def test_converges_to_the_distance_of_an_affine_classifier(n_classes: int) -> None:
    model, x = Affine(n_classes, SMALL, ahead=1.5), near_grey(10, SMALL)
    known = model.distance(x, dual=2)
    attack = Boundary(n_steps=600, n_starts=20)
    found = attack.nearest(model, x, zeros(10), L2(1), keys=keys(10))
    assert (found.distance >= known * (1 - 1e-5)).all()
    # A walk may end at another class than the nearest.
    assert (found.distance < 1.04 * model.distance_to_class_of(found.x_adv, x, dual=2)).all()
    assert float((found.distance / known).median()) < (1.01 if n_classes == 2 else 1.1)


def test_more_steps_are_nearer_and_the_start_is_far() -> None:
    model, x = Affine(2, ahead=1.0), near_grey(10)
    start, half, whole = (
        Boundary(n_steps=n_steps, n_starts=2).nearest(model, x, zeros(10), L2(1), keys=keys(10)).distance
        for n_steps in (1, 100, 300)
    )
    begun = start.isfinite()
    assert begun.sum() >= 3
    assert (whole <= half)[begun].all()
    assert (half < 0.9 * start)[begun].all()
    assert (whole < 0.9 * half)[begun].any()


def test_the_path_of_a_walk_is_what_shorter_walks_find() -> None:
    model, x = Affine(2, SMALL, ahead=1.5), near_grey(6, SMALL)
    y = zeros(6)
    y[-1] = 1
    walk = Boundary(n_steps=120, n_starts=4)
    path = distance_path(model, x, y, L2(1), keys=keys(6), attack=walk)
    assert path.shape == (121, 6)
    for n_steps in (1, 50, 120):
        found = replace(walk, n_steps=n_steps).nearest(model, x, y, L2(1), keys=keys(6))
        assert torch.equal(path[n_steps], found.distance)
    assert (path[1:] <= path[:-1]).all()
    assert path[0].isfinite().any()
    assert (path[:, -1] == 0).all()


def test_the_path_goes_on_where_all_images_have_left() -> None:
    model, x = Affine(2, SMALL, ahead=1.5), near_grey(4, SMALL)
    attack = Boundary(n_steps=100, n_starts=4, n_queries=60)
    path = distance_path(model, x, zeros(4), L2(1), keys=keys(4), attack=attack)
    assert path.shape == (101, 4)
    assert torch.equal(path[-1], path[60])
    assert torch.equal(path[-1], attack.nearest(model, x, zeros(4), L2(1), keys=keys(4)).distance)


def test_only_decisions_count() -> None:
    model = models.seeded(lambda: models.Rippled(SMALL, ahead=1))
    x = models.images(8, SMALL)
    y = model(x).argmax(dim=1)
    soft, hard = (
        Boundary(n_steps=80, n_starts=10).nearest(either, x, y, L2(1), keys=keys(8))
        for either in (model, Hardened(model))
    )
    assert soft.distance.isfinite().all()
    assert torch.equal(soft.x_adv, hard.x_adv)
    assert torch.equal(soft.distance, hard.distance)
    assert torch.equal(soft.queries, hard.queries)


def test_converged_images_leave() -> None:
    model, x = Affine(2, SMALL, ahead=1.5), near_grey(4, SMALL)
    attack = Boundary(n_steps=5000, n_starts=10)
    found = attack.nearest(model, x, zeros(4), L2(1), keys=keys(4))
    assert (found.queries < 3000).all()
    assert torch.allclose(found.distance, model.distance(x, dual=2), rtol=1e-3)


def test_budget_is_kept_for_each_image() -> None:
    model, x = Affine(2), near_grey(6)
    found = Boundary(n_steps=500, n_starts=10, n_queries=100).nearest(model, x, zeros(6), L2(1), keys=keys(6))
    assert found.distance.isfinite().any()
    # An image without a start costs its ten draws.
    assert set(found.queries.tolist()) <= {10, 100}


def test_step_sizes_stay_where_the_share_of_successes_is_the_one_aimed_at() -> None:
    successes = torch.arange(40) < 40 * SOURCE_SUCCESS
    size = torch.tensor([0.01])
    for success in successes:
        size = _adapted(size, success[None], SOURCE_SUCCESS)
    assert float(size) == pytest.approx(0.01, rel=1e-4)
    assert _adapted(size, torch.tensor([True]), SOURCE_SUCCESS) > size
    assert _adapted(size, torch.tensor([False]), SOURCE_SUCCESS) < size


def test_keeps_the_promises_of_an_attack() -> None:
    check_attack(Boundary(n_steps=12, n_starts=6), threats=[L2(0.5)], breaks_linear=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "Boundary needs at least 1 step, not 0"),
        ({"n_starts": 0}, "at least 1 start, not 0"),
        ({"n_queries": 0}, "at least 1 query, not 0"),
        ({"spherical_step": 0.0}, r"the spherical step of Boundary is a share of the distance in \(0, 1\), not 0.0"),
        ({"source_step": 1.0}, "the source step of Boundary"),
        ({"source_step": math.nan}, "the source step of Boundary"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        Boundary(**settings)  # type: ignore[arg-type]
