"""What every minimum-norm attack promises, and the book-keeping that they share."""

import pytest
import torch
from attack_toys import SHAPE, Affine, Asked, Unmoved, keys, near_grey, zeros
from torch import Tensor

from casemate import L1, L2, Linf
from casemate.attacks import DDN, FAB, FMN, Boundary, CarliniWagner, HopSkipJump, MinimumNorm
from casemate.attacks.nearest import Search
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import margin
from casemate.testing import models
from casemate.threat import Threat

ATTACKS = (
    (Boundary(n_steps=40, n_starts=12), L2(0.3)),
    (HopSkipJump(n_steps=2, n_evaluations=30, n_starts=12), L2(0.3)),
    (HopSkipJump(n_steps=2, n_evaluations=30, n_starts=12), Linf(0.1)),
    (DDN(n_steps=30), L2(0.3)),
    (FAB(n_steps=8, n_targets=2), Linf(0.05)),
    (FAB(n_steps=8, n_targets=2), L2(0.3)),
    (FAB(n_steps=8, n_targets=2), L1(1)),
    (FMN(n_steps=30), Linf(0.1)),
    (FMN(n_steps=30), L2(0.3)),
    (FMN(n_steps=30), L1(1)),
    (CarliniWagner(n_steps=30, n_search_steps=3, learning_rate=0.05, first_c=0.1), L2(0.3)),
)
each_attack = pytest.mark.parametrize(("attack", "threat"), ATTACKS, ids=lambda value: str(value).partition("(")[0])


def rippled(n: int) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """A curved classifier, and images of which the last is misclassified."""
    model = models.seeded(lambda: models.Rippled(SHAPE, ahead=2))
    x = models.images(n, SHAPE)
    y = model(x).argmax(dim=1)
    y[-1] = (y[-1] + 1) % models.N_CLASSES
    return model, x, y


@each_attack
def test_what_is_claimed_is_so(attack: MinimumNorm, threat: Threat) -> None:
    model, x, y = rippled(12)
    engine = Asked(model)
    found = attack.nearest(engine, x, y, threat, keys=keys(12))
    assert found.distance.dtype == torch.float64
    assert found.queries.dtype == torch.int64
    claimed = found.distance.isfinite()
    assert claimed[:-1].sum() >= 8
    assert (margin(model(found.x_adv), y)[claimed] > 0).all()
    assert torch.equal(threat.measure(found.x_adv, x)[claimed], found.distance[claimed])
    assert ((found.x_adv >= 0) & (found.x_adv <= 1)).all()
    assert torch.equal(found.x_adv[~claimed], x[~claimed])
    # All that the classifier was asked beyond the clean check is on the bill.
    assert int(found.queries.sum()) == engine.n_points - 12


@each_attack
def test_wrong_images_are_at_distance_0_and_cost_nothing(attack: MinimumNorm, threat: Threat) -> None:
    model, x, y = rippled(4)
    found = attack.nearest(model, x, y, threat, keys=keys(4))
    assert float(found.distance[3]) == 0
    assert int(found.queries[3]) == 0
    assert torch.equal(found.x_adv[3], x[3])
    assert (found.distance[:3] > 0).all()
    assert (found.queries[:3] > 0).all()


@each_attack
def test_an_image_has_one_result_in_any_batch(attack: MinimumNorm, threat: Threat) -> None:
    model, x, y = rippled(6)
    engine = Engine(model, precision="float32")
    together = attack.nearest(engine, x, y, threat, keys=keys(6))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = attack.nearest(engine, x[order], y[order], threat, keys=keys(6)[order])
    for image in (0, 3, 5):
        at = slice(image, image + 1)
        alone = attack.nearest(engine, x[at], y[at], threat, keys=keys(6)[at])
        place = int((order == image).nonzero())
        for other, row in ((alone, 0), (permuted, place)):
            assert torch.equal(other.x_adv[row], together.x_adv[image])
            assert float(other.distance[row]) == float(together.distance[image])
            assert int(other.queries[row]) == int(together.queries[image])


@each_attack
def test_search_ends_where_nothing_can_be_found(attack: MinimumNorm, threat: Threat) -> None:
    x = near_grey(3)
    found = attack.nearest(Unmoved(), x, zeros(3), threat, keys=keys(3))
    assert found.distance.isinf().all()
    assert torch.equal(found.x_adv, x)
    if isinstance(attack, CarliniWagner):
        # No more than its steps, and no fewer than each descent takes to see that it gets nowhere.
        assert ((found.queries >= 3 * 4) & (found.queries <= 3 * 30)).all()
    else:
        # A decision-based search has nothing to go on after its draws, and there is one other class for FAB.
        assert (found.queries == {DDN: 31, FMN: 31, FAB: 16}.get(type(attack), 12)).all()


@each_attack
def test_eps_matters_only_where_the_search_stops_inside(attack: MinimumNorm, threat: Threat) -> None:
    model, x, y = rippled(6)
    wide = type(threat)(3 * threat.eps)
    found, same = (attack.nearest(model, x, y, at, keys=keys(6)) for at in (threat, wide))
    assert torch.equal(found.x_adv, same.x_adv)
    assert torch.equal(found.queries, same.queries)
    stopped = attack.nearest(model, x, y, wide, keys=keys(6), stop_inside=True)
    left = stopped.distance <= wide.eps
    # An image whose first point inside is that of the last step saves nothing.
    saved = (found.queries - stopped.queries)[:-1][left[:-1]]
    assert (saved >= 0).all()
    assert (saved > 0).any()
    assert torch.equal(stopped.x_adv[~left], found.x_adv[~left])


@each_attack
def test_as_an_attack_it_breaks_what_the_search_found_inside(attack: MinimumNorm, threat: Threat) -> None:
    model, x, y = rippled(12)
    found = attack.nearest(model, x, y, threat, keys=keys(12))
    threat = type(threat)(float(found.distance[:11].median()))
    x_adv = attack(model, x, y, threat, keys=keys(12))  # type: ignore[operator]
    assert threat.contains(x_adv, x).all()
    broken = margin(model(x_adv), y) > 0
    assert broken[found.distance <= threat.eps].all()


@pytest.mark.parametrize(
    ("attack", "threat", "message"),
    [
        (Boundary(), Linf(0.1), "Boundary searches in l2, so linf:0.1 is not a threat model for it"),
        (HopSkipJump(), L1(2), "HopSkipJump searches in l2 or linf, so l1:2 is not"),
        (DDN(), Linf(0.1), "DDN searches in l2, so linf:0.1 is not"),
    ],
)
def test_another_norm_is_refused(attack: MinimumNorm, threat: Threat, message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        attack.nearest(Unmoved(), near_grey(1), zeros(1), threat, keys=keys(1))


def open_search(n: int, **settings: object) -> tuple[Search, Asked]:
    engine = Asked(Affine(2))
    search = Search(
        engine, near_grey(n), zeros(n), L2(0.5), keys=keys(n), who="a test", norms=("l2",),
        **settings,  # type: ignore[arg-type]
    )  # fmt: skip
    engine.n_points = 0
    return search, engine


def along(search: Search, share: float) -> Tensor:
    """Points that far towards the boundary of `Affine(2)`, 1 being on it."""
    model = search.engine.model
    assert isinstance(model, Affine)
    normal = model.weight[1] - model.weight[0]
    reach = share * model.distance(search.x, dual=2).float()
    return search.x + (reach[:, None] * normal / normal.norm()).view_as(search.x)


def test_the_nearest_of_several_points_of_one_image_is_kept() -> None:
    search, _ = open_search(3)
    points = torch.stack([along(search, share) for share in (1.3, 0.9, 1.1, 1.2)], dim=1)
    wrong = search.ask(points.flatten(0, 1), search.index)
    assert wrong.view(3, 4).tolist() == [[True, False, True, True]] * 3
    assert torch.equal(search.best, points[:, 2])
    assert search.queries.tolist() == [4, 4, 4]
    # A further one does not replace it, a nearer one does.
    search.ask(along(search, 1.2), search.index)
    assert torch.equal(search.best, points[:, 2])
    search.ask(along(search, 1.05), search.index)
    assert torch.equal(search.best, along(search, 1.05))
    assert torch.equal(search.distance, search.threat.measure(search.best, search.x))


def test_closed_images_and_those_out_of_budget_get_no_answer() -> None:
    search, engine = open_search(3, n_queries=5)
    points = along(search, 1.1).repeat_interleave(3, dim=0)
    search.close(torch.tensor([1]))
    assert search.ask(points, torch.arange(3)).tolist() == [True] * 3 + [False] * 3 + [True] * 3
    assert search.index.tolist() == [0, 2]
    # Two questions are left for each.
    assert search.ask(points, torch.arange(3)).tolist() == [True, True, False, *[False] * 3, True, True, False]
    assert search.index.tolist() == []
    assert search.queries.tolist() == [5, 0, 5]
    assert engine.n_points == 10


def test_what_stands_comes_back_least_right_inside_the_threat_model() -> None:
    search, _ = open_search(2, stop_inside=True)
    at = search.index
    for share in (0.5, 0.8, 0.6):
        search.ask(along(search, share), at)
    outside = (search.threat.measure(along(search, 0.8), search.x) > search.threat.eps).any()
    assert not outside
    assert torch.equal(search.inside(), along(search, 0.8))
    # A wrong point far outside is tried in its projection.
    search, _ = open_search(2, stop_inside=True)
    search.ask(along(search, 2.5), at)
    assert search.index.tolist() == [0, 1], "a wrong point outside the threat model breaks nothing"
    assert torch.equal(search.inside(), search.threat.project(along(search, 2.5), search.x))
