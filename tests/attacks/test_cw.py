"""Carlini & Wagner's attack against affine classifiers, and its parts against slow ones."""

import itertools
import math
from typing import Any

import pytest
import torch
from attack_toys import SHAPE, Affine, Unmoved, keys, near_grey, zeros
from torch import Tensor, nn

from casemate import L2, rng
from casemate.attacks import CarliniWagner, cw
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import margin
from casemate.testing import check_attack, models


def engine(model: nn.Module) -> Engine:
    return Engine(model, precision="float32")


@pytest.mark.parametrize("n_classes", [2, 10])
def test_comes_within_a_hundredth_of_the_distance_of_an_affine_classifier(n_classes: int) -> None:
    model, x = Affine(n_classes), near_grey(20)
    known = model.distance(x, dual=2)
    attack = CarliniWagner(n_steps=150, n_search_steps=5, first_c=0.1)
    found = attack.nearest(engine(model), x, zeros(20), L2(1), keys=keys(20))
    assert (found.distance >= known * (1 - 1e-5)).all()
    # The margin follows the class next in line, which with several classes is not always the nearest.
    assert (found.distance <= 1.01 * model.distance_to_class_of(found.x_adv, x, dual=2)).all()
    assert float((found.distance / known).median()) <= (1.01 if n_classes == 2 else 1.15)


def test_kappa_is_the_margin_that_a_descent_aims_at() -> None:
    model, x = Affine(2), near_grey(4)
    points = []

    class Walked(Engine):
        def gradient(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            points.append(x.clone())
            return super().gradient(x, *args, **kwargs)

    attack = CarliniWagner(n_steps=100, n_search_steps=4, first_c=0.2, kappa=5)
    found = attack.nearest(Walked(model, precision="float32"), x[:1], zeros(1), L2(1), keys=keys(1))
    walked = torch.cat(points)
    reached = margin(model(walked), zeros(len(walked))) >= 5
    distance = L2(1).measure(walked[reached], x[:1].expand_as(walked[reached])).min()
    # The margin of an affine classifier grows by 5 |normal| in each unit of distance.
    beyond = 5 / (5 * float((model.weight[1] - model.weight[0]).norm()))
    known = float(model.distance(x[:1], dual=2))
    assert float(distance) == pytest.approx(known + beyond, rel=0.01)
    # What is kept is nearer, for it need not have that margin.
    assert known * (1 - 1e-5) <= float(found.distance) < known + 0.9 * beyond


def test_images_make_the_round_trip_through_tanh_and_never_leave_the_box() -> None:
    x = torch.cat([torch.linspace(0, 1, 1021), torch.tensor([1e-7, 1 - 1e-7, 1e-3, 0.999])]).view(1, 1, 25, 41)
    w = cw._to_w(x)
    assert w.isfinite().all()
    # Half of what WITHIN leaves at the faces, and the roundings of numbers near 1.
    assert (cw._to_image(w) - x).abs().max() <= 0.5e-6 + 2**-22
    far = torch.linspace(-1e4, 1e4, 35).view(1, *SHAPE)
    assert ((cw._to_image(far) >= 0) & (cw._to_image(far) <= 1)).all()


def test_the_slope_is_that_of_the_whole_loss() -> None:
    model, x = Affine(10), models.images(6, SHAPE)
    w = (cw._to_w(x) + 0.3 * rng.normal(keys(6, seed=1), SHAPE)).requires_grad_()
    c = torch.tensor([0.0, 1e-3, 0.1, 1.0, 10.0, 1e3], dtype=torch.float64)
    x_adv = (torch.tanh(w) + 1) / 2
    ahead = margin(model(x_adv), zeros(6))
    loss = (x_adv - x).flatten(1).square().sum(dim=1) - c.float() * ahead
    (expected,) = torch.autograd.grad(loss.sum(), w, retain_graph=True)
    (gradient,) = torch.autograd.grad(ahead.sum(), x_adv)
    slope = cw._slope(x_adv.detach(), x, gradient, c)
    error = (slope - expected).flatten(1).norm(dim=1)
    assert (error <= 1e-5 * expected.flatten(1).norm(dim=1)).all()


def test_c_of_every_image_is_searched_as_by_the_authors() -> None:
    # All ways in which nine descents can end, one an image.
    endings = list(itertools.product([False, True], repeat=9))
    c = torch.full((512,), 1e-3, dtype=torch.float64)
    low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
    tried = [c]
    for reached in torch.tensor(endings).T:
        c, low, high = cw._searched_c(c, low, high, reached)
        tried.append(c)
    for image, ending in enumerate(endings):
        constant, lower, upper = 1e-3, 0.0, 1e10
        for descent, success in enumerate(ending):
            assert float(tried[descent][image]) == pytest.approx(constant, rel=1e-12)
            if success:
                upper = min(upper, constant)
            else:
                lower = max(lower, constant)
            constant = (lower + upper) / 2 if upper < 1e9 else 10 * constant


def slow_search(model: nn.Module, x: Tensor, y: int, attack: CarliniWagner) -> tuple[float, list[float]]:
    """The attack on one image with torch's own derivatives and Adam: the least distance, and each c tried."""
    nearest, tried = math.inf, []
    c, low, high = attack.first_c, 0.0, math.inf
    for _ in range(attack.n_search_steps):
        tried.append(c)
        w = torch.atanh((2 * x - 1) * 0.999999).requires_grad_()
        optimiser = torch.optim.Adam([w], lr=attack.learning_rate)
        success, least, checked = False, math.inf, math.inf
        for step in range(attack.n_steps):
            x_adv = (torch.tanh(w) + 1) / 2
            logits = model(x_adv)[0]
            ahead = torch.cat([logits[:y], logits[y + 1 :]]).max() - logits[y]
            square = (x_adv - x).square().sum()
            loss = square + c * (attack.kappa - ahead).clamp(min=0)
            if ahead > 0:
                nearest = min(nearest, float(square.detach().sqrt()))
                success = success or bool(ahead >= attack.kappa)
            least = min(least, float(loss.detach()))
            if step % (attack.n_steps // 10) == 0:
                if least > 0.9999 * checked:
                    break
                checked = least
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        low, high = (low, c) if success else (c, high)
        c = 10 * c if math.isinf(high) else (low + high) / 2
    return nearest, tried


def test_agrees_with_a_slow_search_of_one_image_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.seeded(lambda: models.Rippled(SHAPE, ahead=2))
    x = models.images(4, SHAPE)
    y = model(x).argmax(dim=1)
    attack = CarliniWagner(n_steps=40, n_search_steps=5)
    tried = []
    descend = CarliniWagner._descend

    def observed(self: CarliniWagner, search: Any, c: Tensor, keys: Tensor) -> Tensor:
        tried.append(c.tolist())
        return descend(self, search, c, keys)

    monkeypatch.setattr(CarliniWagner, "_descend", observed)
    found = attack.nearest(engine(model), x, y, L2(1), keys=keys(4))
    slow = [slow_search(model, x[image : image + 1], int(y[image]), attack) for image in range(4)]
    assert len({tuple(constants) for _, constants in slow}) > 1, "the images need different constants"
    for image, (nearest, constants) in enumerate(slow):
        assert [each[image] for each in tried] == pytest.approx(constants)
        assert float(found.distance[image]) == pytest.approx(nearest, rel=1e-4)


def test_a_descent_that_makes_no_progress_ends_after_a_tenth_of_its_steps() -> None:
    # The same logits everywhere, so that nothing falls.
    level = nn.Sequential(Unmoved(), nn.Hardtanh())
    attack = CarliniWagner(n_steps=50, n_search_steps=3)
    found = attack.nearest(engine(level), near_grey(2), zeros(2), L2(1), keys=keys(2))
    assert found.queries.tolist() == [3 * 6, 3 * 6]


def test_keeps_the_promises_of_an_attack() -> None:
    check_attack(CarliniWagner(n_steps=20, n_search_steps=2, learning_rate=0.05, first_c=1), threats=[L2(0.5)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "CarliniWagner needs at least 1 step, not 0"),
        ({"n_search_steps": 0}, "CarliniWagner needs at least 1 search step, not 0"),
        ({"learning_rate": 0.0}, "the learning rate of CarliniWagner must be positive, not 0.0"),
        ({"first_c": math.inf}, "the first c of CarliniWagner must be positive, not inf"),
        ({"kappa": -1.0}, "kappa of CarliniWagner is a margin of at least 0, not -1.0"),
        ({"kappa": math.nan}, "kappa of CarliniWagner"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        CarliniWagner(**settings)
