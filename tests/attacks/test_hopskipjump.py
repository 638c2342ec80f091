"""HopSkipJump against the distances and directions of affine classifiers."""

import pytest
import torch
from attack_toys import SHAPE, Affine, Hardened, keys, near_grey, zeros

from casemate import L2, Linf, rng
from casemate.attacks import HopSkipJump, hopskipjump
from casemate.attacks.nearest import Search
from casemate.errors import CasemateError
from casemate.testing import check_attack, models
from casemate.threat import Threat

BOTH = pytest.mark.parametrize(("threat", "dual"), [(L2(1), 2), (Linf(0.1), 1)], ids=["l2", "linf"])


@BOTH
@pytest.mark.parametrize("n_classes", [2, 10])
def test_converges_to_the_distance_of_an_affine_classifier(n_classes: int, threat: Threat, dual: int) -> None:
    model, x = Affine(n_classes), near_grey(10)
    known = model.distance(x, dual=dual)
    found = HopSkipJump(n_steps=12).nearest(model, x, zeros(10), threat, keys=keys(10))
    assert (found.distance >= known * (1 - 1e-5)).all()
    # A search may end at another class than the nearest.
    assert (found.distance < 1.08 * model.distance_to_class_of(found.x_adv, x, dual)).all()
    assert float((found.distance / known).median()) < (1.04 if n_classes == 2 else 1.1)


def boundary_search(threat: Threat, share: float) -> tuple[Search, torch.Tensor, torch.Tensor]:
    """A search at points `share` of the way to the boundary of an affine classifier, and its unit normal."""
    model, x = Affine(2), near_grey(6)
    normal = model.weight[1] - model.weight[0]
    normal = (normal / normal.norm()).view(SHAPE)
    search = Search(model, x, zeros(6), threat, keys=keys(6), who="a test", norms=("l2", "linf"))
    return search, x + share * model.distance(x, dual=2).float().view(-1, 1, 1, 1) * normal, normal


def test_the_direction_is_that_of_the_normal() -> None:
    search, points, normal = boundary_search(L2(1), 1.0)
    few, many = (
        (hopskipjump._direction(search, points, search.index, n, search.keys) * normal).sum(dim=(1, 2, 3))
        for n in (64, 2000)
    )
    # The cosine of n draws in d dimensions is about 1 / sqrt(1 + pi d / 2n).
    assert few.mean().item() == pytest.approx((1 + torch.pi * 35 / 128) ** -0.5, abs=0.1)
    assert (many > 0.97).all()


def test_the_mean_answer_as_baseline_makes_an_uneven_boundary_no_worse() -> None:
    # delta is 1/35 of the distance: 1% beyond the boundary most draws, but not all, are wrong.
    search, points, normal = boundary_search(L2(1), 1.01)
    direction = hopskipjump._direction(search, points, search.index, 2000, search.keys)
    assert ((direction * normal).sum(dim=(1, 2, 3)) > 0.9).all()


@pytest.mark.parametrize(("share", "sign"), [(1.5, 1), (0.5, -1)])
def test_where_all_answers_agree_the_direction_is_the_mean_of_the_draws(share: float, sign: int) -> None:
    search, points, _ = boundary_search(L2(1), share)
    direction = hopskipjump._direction(search, points, search.index, 10, search.keys)
    draws = rng.normal(rng.fold(search.keys, "draws", 0), (10, *SHAPE)).flatten(2)
    mean = (draws / draws.norm(dim=2, keepdim=True)).sum(dim=1)
    expected = sign * mean / mean.norm(dim=1, keepdim=True)
    assert torch.allclose(direction.flatten(1), expected, atol=1e-3)


def test_the_direction_in_linf_is_a_sign_of_most_values() -> None:
    search, points, normal = boundary_search(Linf(0.1), 1.0)
    direction = hopskipjump._direction(search, points, search.index, 3000, search.keys)
    assert set(direction.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert ((direction == normal.sign()).float().mean(dim=(1, 2, 3)) > 0.85).all()


def test_images_in_parts_have_the_same_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    search, points, _ = boundary_search(L2(1), 1.0)
    whole = hopskipjump._direction(search, points, search.index, 100, search.keys)
    monkeypatch.setattr(hopskipjump, "VALUES_AT_ONCE", 2 * 35 * hopskipjump.DRAWS_AT_ONCE)
    assert torch.equal(hopskipjump._direction(search, points, search.index, 100, search.keys), whole)


@BOTH
def test_only_decisions_count(threat: Threat, dual: int) -> None:
    model = models.seeded(lambda: models.Rippled(SHAPE, ahead=2))
    x = models.images(8, SHAPE)
    y = model(x).argmax(dim=1)
    soft, hard = (
        HopSkipJump(n_steps=3, n_evaluations=30, n_starts=10).nearest(either, x, y, threat, keys=keys(8))
        for either in (model, Hardened(model))
    )
    assert soft.distance.isfinite().all()
    assert torch.equal(soft.x_adv, hard.x_adv)
    assert torch.equal(soft.distance, hard.distance)
    assert torch.equal(soft.queries, hard.queries)


def test_budget_is_kept_for_each_image() -> None:
    model, x = Affine(2), near_grey(6)
    attack = HopSkipJump(n_steps=10, n_starts=20, n_queries=300)
    found = attack.nearest(model, x, zeros(6), L2(1), keys=keys(6))
    assert found.distance.isfinite().all()
    assert (found.queries == 300).all()


@BOTH
def test_keeps_the_promises_of_an_attack(threat: Threat, dual: int) -> None:
    threat = L2(0.5) if dual == 2 else threat
    check_attack(HopSkipJump(n_steps=2, n_evaluations=10, n_starts=6), threats=[threat], breaks_linear=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "HopSkipJump needs at least 1 step, not 0"),
        ({"n_evaluations": 0}, "at least 1 evaluation, not 0"),
        ({"n_starts": 0}, "at least 1 start, not 0"),
        ({"n_queries": 0}, "at least 1 query, not 0"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        HopSkipJump(**settings)
