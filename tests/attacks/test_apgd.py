"""APGD: the published schedule and algorithm, closed forms on linear models, and its place among the other attacks."""

import dataclasses

import pytest
import torch
from attack_toys import SHAPE, at_distances, keys, zeros
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from casemate import rng
from casemate.attacks import APGD, PGD, MultiTarget
from casemate.attacks.apgd_momentum import MomentumPath, checkpoints
from casemate.attacks.apgd_sparse import SparsePath, sparse_sign
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import cross_entropy, margin
from casemate.testing import check_attack, models
from casemate.threat import L1, L2, Linf, Threat


@pytest.mark.parametrize("attack", [APGD(n_steps=20), APGD(n_steps=12, loss="dlr", target_rank=2)])
def test_keeps_the_promises_of_an_attack(attack: APGD) -> None:
    # One target, or a few sparse steps, are no promise to break everything.
    threats = (Linf(0.1), L2(0.5))
    check_attack(attack, threats=threats, breaks_linear=attack.target_rank is None)


def test_keeps_the_promises_of_an_attack_in_l1() -> None:
    check_attack(APGD(n_steps=60), threats=(L1(2.0),))


def test_checkpoints_are_the_published_ones() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@given(st.integers(1, 2000))
def test_checkpoints_lie_inside_the_run_ever_closer(n_steps: int) -> None:
    found = checkpoints(n_steps)
    gaps = [after - before for before, after in zip([0, *found], found, strict=False)]
    assert all(0 < at < n_steps for at in found)
    assert gaps == sorted(gaps, reverse=True)
    assert all(gap >= max(int(0.06 * n_steps), 1) for gap in gaps)


def published_path(loss_at, x: Tensor, eps: float, start: Tensor, n_steps: int) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """Algorithm 1 of Croce & Hein 2020 for one image in linf, written down step by step: all points in their order."""

    def project(z: Tensor) -> Tensor:
        return z.clamp(x - eps, x + eps).clamp(0, 1)

    marks = checkpoints(n_steps)
    eta, points, before = 2 * eps, [start], start
    best, best_loss, best_gradient = start, -float("inf"), start
    losses: list[float] = []
    since, halved_then, best_then = 0, False, None
    for k in range(n_steps):
        current = points[-1]
        value, gradient = loss_at(current)
        losses.append(value)
        if value > best_loss:
            best, best_loss, best_gradient = current, value, gradient
        best_then = best_loss if best_then is None else best_then
        if k in marks:
            gains = sum(losses[i] > losses[i - 1] for i in range(since + 1, k + 1))
            halve = gains <= 0.75 * (k - since) or (not halved_then and best_loss <= best_then)
            if halve:
                eta, current, gradient = eta / 2, best, best_gradient
            since, halved_then, best_then = k, halve, best_loss
        ahead = project(current + eta * gradient.sign())
        if k > 0:
            ahead = project(current + 0.75 * (ahead - current) + 0.25 * (current - before))
        before = current
        points.append(ahead)
    return points


@pytest.mark.parametrize("seed", range(4))
def test_linf_path_is_that_of_algorithm_1(seed: int) -> None:
    torch.manual_seed(seed)
    n_steps, eps = 40, 0.2
    model = models.seeded(lambda: models.Rippled(SHAPE))
    x = models.images(3, SHAPE)
    y = model(x).argmax(dim=1)
    engine = Engine(model, precision="float32")
    path = MomentumPath(x, Linf(eps), n_steps, keys(3, seed))
    ours = [path.x_adv]
    for step in range(n_steps):
        gradient, logits = engine.gradient(path.x_adv, y, cross_entropy)
        path.move(cross_entropy(logits, y), gradient, rng.fold(keys(3), step))
        ours.append(path.x_adv)

    for image in range(3):

        def loss_at(point: Tensor, image: int = image) -> tuple[float, Tensor]:
            gradient, logits = engine.gradient(point[None], y[image : image + 1], cross_entropy)
            return float(cross_entropy(logits, y[image : image + 1])), gradient[0]

        published = published_path(loss_at, x[image], eps, ours[0][image], n_steps)
        for step, (mine, theirs) in enumerate(zip(ours, published, strict=True)):
            assert torch.allclose(mine[image], theirs, atol=1e-5), f"image {image}, step {step}"
    assert (path.step_size < 2 * eps).any(), "no step was ever halved: the test would not see how"


@pytest.mark.parametrize(("threat", "share"), [(Linf(0.1), 0.999), (L2(0.5), 0.99), (L1(2.0), 0.95)])
def test_reaches_the_largest_loss_of_a_linear_model(threat: Threat, share: float) -> None:
    linear = models.Linear(SHAPE)
    # In the middle of the box, where the ball is whole; too far from the boundary to be broken.
    x = torch.full((4, *SHAPE), 0.5)
    x_adv = APGD(n_steps=100, loss="margin")(Far(linear), x, zeros(4), threat, keys=keys(4))
    weight = linear.weight.flatten()
    dual = {Linf: weight.abs().sum(), L2: weight.norm(), L1: weight.abs().max()}[type(threat)]
    gain = ((x_adv - x) * -linear.weight).flatten(1).sum(dim=1).abs()
    assert (gain >= share * threat.eps * dual).all()
    assert (gain <= (1 + 1e-5) * threat.eps * dual).all()


class Far(torch.nn.Module):
    """A linear model so far on its own side that nothing in the ball is wrong."""

    def __init__(self, linear: torch.nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x)
        ahead = torch.zeros_like(logits)
        ahead[:, 0] = 1000
        return logits + ahead


def test_sparse_sign_takes_the_largest_entries_in_equal_parts() -> None:
    gradient = torch.tensor([[3.0, -1.0, 0.5, -2.0], [0.0, 0.0, -4.0, 0.0]]).view(2, 1, 2, 2)
    step = sparse_sign(gradient, torch.tensor([2.9, 0.2])).flatten(1)
    assert step.tolist() == [[0.5, 0.0, 0.0, -0.5], [0.0, 0.0, -1.0, 0.0]]


@pytest.mark.parametrize("n_steps", [1, 2, 3, 4, 7, 10, 100])
def test_sparse_path_ends_inside_the_ball_after_larger_ones(n_steps: int) -> None:
    x, threat = models.images(3, SHAPE), L1(1.5)
    path = SparsePath(x, threat, n_steps, keys(3))
    radii = []
    for step in range(n_steps):
        radii.append(path._ball.eps / threat.eps)
        assert path._ball.contains(path.x_adv, x).all()
        path.move(torch.full((3,), float(step)), torch.ones_like(x), keys(3))
    assert path.judged
    assert threat.contains(path.x_adv, x).all()
    assert radii == sorted(radii, reverse=True)
    if n_steps == 100:
        assert [radii.count(radius) for radius in (3.0, 2.0, 1.0)] == [30, 30, 40]


def test_a_change_that_grows_no_sparser_takes_shorter_steps_and_one_that_does_starts_again() -> None:
    x, threat = torch.full((2, *SHAPE), 0.5), L1(1.5)
    path = SparsePath(x, threat, 100, keys(2))
    path._enter(2)
    path.sparsity = torch.tensor([1.0, 1e6])
    path._taken = path._entered + path._between
    path.best_loss = torch.full((2,), 10.0)
    back = path.check(torch.zeros(2))
    assert back is not None
    assert back.tolist() == [False, True]
    assert path.step_size.tolist() == pytest.approx([1.5 / 1.5, 1.5])


def test_towards_each_target_in_turn() -> None:
    model = models.seeded(lambda: models.Rippled(SHAPE))
    x = models.images(40, SHAPE)
    y = model(x).argmax(dim=1)
    attack = MultiTarget(APGD(n_steps=10, loss="dlr"), n_targets=2)
    by_hand = [
        margin(model(dataclasses.replace(attack.attack, target_rank=rank)(model, x, y, Linf(0.1), keys=keys(40))), y)
        for rank in (1, 2)
    ]
    both = margin(model(attack(model, x, y, Linf(0.1), keys=keys(40))), y) > 0
    # Random starts differ, and so may an image or two at the edge.
    assert int((both != (torch.maximum(*by_hand) > 0)).sum()) <= 3
    targets = (y + 1) % models.N_CLASSES
    x_adv = APGD(n_steps=20, loss="margin")(model, x, y, Linf(0.1), keys=keys(40), targets=targets)
    assert (model(x_adv).argmax(dim=1) == targets).float().mean() > 0.8


def test_breaks_no_fewer_than_pgd_with_as_many_steps() -> None:
    model = models.seeded(lambda: models.Modal(SHAPE))
    x = models.images(200, SHAPE)
    y = model(x).argmax(dim=1)
    broken = [
        int((margin(model(attack(model, x, y, Linf(0.08), keys=keys(200))), y) > 0).sum())
        for attack in (APGD(n_steps=20), PGD(n_steps=20))
    ]
    assert 20 < broken[0] < 200
    assert broken[0] >= broken[1] - 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "APGD needs at least 1 step, not 0"),
        ({"target_rank": 0}, "target_rank counts wrong classes from 1"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        APGD(**settings)  # type: ignore[arg-type]


def test_an_image_within_reach_is_broken_at_its_distance() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.tensor([0.05, 0.09, 0.12]))
    x_adv = APGD(n_steps=10)(linear, x, zeros(3), Linf(0.1), keys=keys(3))
    assert (margin(linear(x_adv), zeros(3)) > 0).tolist() == [True, True, False]
