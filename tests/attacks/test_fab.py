"""FAB against the distances of affine classifiers and the steps of its paper."""

import math
from typing import Any

import pytest
import torch
from attack_toys import SHAPE, Affine, keys, near_grey, zeros
from torch import Tensor, nn

from casemate import L1, L2, Linf, rng
from casemate.attacks import FAB
from casemate.attacks.pgd import ranked_class
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import margin
from casemate.testing import check_attack, models
from casemate.threat import Threat


class Logged(Engine):
    """An engine that remembers the points at which it is asked, with and without a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, precision="float32")
        self.verdicts: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def logits(self, x: Tensor, *, keys: rng.Keys | None = None) -> Tensor:
        self.verdicts.append(x.clone())
        return super().logits(x, keys=keys)

    def gradient(self, x: Tensor, *args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
        self.gradients.append(x.clone())
        return super().gradient(x, *args, **settings)


@pytest.mark.parametrize(("threat", "dual"), [(Linf(0.1), 1), (L2(0.5), 2)])
def test_finds_the_distance_of_an_affine_classifier(threat: Threat, dual: int) -> None:
    model, x = Affine(10), near_grey(20)
    known = model.distance(x, dual)
    found = FAB(n_steps=3).nearest(model, x, zeros(20), threat, keys=keys(20))
    assert (found.distance >= known * (1 - 1e-5)).all()
    assert (found.distance <= known * (1 + 1e-4)).all()


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.9), L1(5)], ids=str)
def test_finds_it_where_the_box_is_met(threat: Linf | L2 | L1) -> None:
    x = (3 * models.images(6, SHAPE) - 1).clamp(0, 1)
    model = models.Linear(SHAPE)
    # Each image at a distance of eps from a boundary of its own.
    gain = model.gain(x, threat)
    for image in range(6):
        at = slice(image, image + 1)
        normal = (model.weight * (x[at] - 0.5)).double().sum()
        plane = models.Linear(SHAPE, bias=float(normal + gain[image]))
        found = FAB(n_steps=3).nearest(plane, x[at], zeros(1), threat, keys=keys(1))
        # Its last point is 0.5% beyond, and the straight way back from there not quite the shortest.
        assert threat.eps * (1 - 1e-5) <= float(found.distance) <= threat.eps * 1.002


def test_fewer_targets_are_the_likeliest_and_cost_in_proportion() -> None:
    model, x = Affine(10), near_grey(20)
    towards = ranked_class(model(x), zeros(20), 1)
    known = model.distances(x, dual=2)
    one = FAB(n_steps=4, n_targets=1).nearest(model, x, zeros(20), L2(0.5), keys=keys(20))
    likeliest = known.gather(1, towards[:, None] - 1).squeeze(1)
    assert (one.distance <= likeliest * (1 + 1e-4)).all()
    assert (one.distance > known.amin(dim=1) * 1.001).any(), "another class is nearer, and was not tried"
    # A gradient and a verdict a step, and the final search.
    assert (one.queries == 2 * 4 + 4).all()
    three = FAB(n_steps=4, n_targets=3).nearest(model, x, zeros(20), L2(0.5), keys=keys(20))
    assert (three.queries == 3 * 2 * 4 + 4).all()
    two_classes = FAB(n_steps=4).nearest(Affine(2), x, zeros(20), L2(0.5), keys=keys(20))
    assert (two_classes.queries == 2 * 4 + 4).all()


def test_walks_as_published_beside_a_hyperplane() -> None:
    model, x = Affine(2), near_grey(3)
    engine = Logged(model)
    FAB(n_steps=3).nearest(engine, x, zeros(3), L2(0.5), keys=keys(3))
    known = model.distance(x, dual=2)
    # In units of the distance: over the boundary by 5%, back to 90% of that, and so on with what is missing then.
    points, centres = [], [0.0]
    for _ in range(3):
        missing = 1 - centres[-1]
        alpha = min(missing / (missing + 1), 0.1)
        points.append((1 - alpha) * (centres[-1] + 1.05 * missing) + alpha * 1.05)
        centres.append(0.9 * points[-1])
    assert points[1] == pytest.approx(1.0052, abs=1e-4)
    for asked, shares in ((engine.verdicts[1:4], points), (engine.gradients, centres[:3])):
        for point, share in zip(asked, shares, strict=True):
            assert torch.allclose((point - x).flatten(1).double().norm(dim=1), share * known, rtol=1e-5)


def test_is_drawn_towards_the_image_by_a_tenth_at_most() -> None:
    # Two values; the boundary is 0.2 along the first from either point, and the second point is off to the side.
    x, x_adv = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2), torch.tensor([0.5, 0.9]).view(1, 1, 1, 2)
    gradient = torch.tensor([2.0, 0.0]).view(1, 1, 1, 2)
    point = FAB()._step(x_adv, x, gradient, torch.tensor([-0.4]), 2)
    assert point.flatten().tolist() == pytest.approx([0.5 + 1.05 * 0.2, 0.9 * 0.9 + 0.1 * 0.5])


@pytest.mark.parametrize("threat", [Linf(0.01), L2(0.05), L1(0.2), Linf(0.5), L2(5), L1(50)], ids=str)
def test_restarts_half_as_far_as_the_nearest_and_half_of_eps(threat: Threat) -> None:
    model, x = Affine(2), near_grey(4)
    engine = Logged(model)
    FAB(n_steps=2, n_restarts=3).nearest(engine, x, zeros(4), threat, keys=keys(4))
    first, second, third = engine.gradients[::2]
    assert torch.equal(first, x)
    nearest = torch.full((4,), torch.inf, dtype=torch.float64)
    for asked in engine.verdicts[1:3]:
        wrong = margin(model(asked), zeros(4)) > 0
        nearest = torch.minimum(nearest, threat.measure(asked, x).masked_fill(~wrong, torch.inf))
    assert torch.allclose(threat.measure(second, x), nearest.clamp(max=threat.eps) / 2, rtol=1e-5)
    assert not torch.equal(second, third)
    assert not torch.equal((second - x)[0], (second - x)[1]), "each image has a direction of its own"


class Shifted(nn.Module):
    """An affine classifier whose boundary is elsewhere in bfloat16."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.affine, self.shift = Affine(2), shift

    def forward(self, x: Tensor) -> Tensor:
        logits = self.affine(x).float()
        if x.dtype == torch.bfloat16:
            logits[:, 1] += self.shift
        return logits


@pytest.mark.parametrize("shift", [7.5, -7.5])
def test_boundary_is_that_of_the_classifier_itself(shift: float) -> None:
    x = near_grey(6)
    engine = Engine(Shifted(shift), precision="bfloat16")
    found = FAB(n_steps=10).nearest(engine, x, zeros(6), L2(1), keys=keys(6))
    known = Affine(2).distance(x, dual=2)
    assert (found.distance >= known * (1 - 1e-5)).all()
    assert (found.distance <= known * 1.001).all()


def test_keeps_the_promises_of_an_attack() -> None:
    check_attack(FAB(n_steps=3, n_targets=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "FAB needs at least 1 step, not 0"),
        ({"n_targets": 0}, "FAB needs at least 1 target class, not 0"),
        ({"n_restarts": 0}, "FAB needs at least 1 restart, not 0"),
        ({"alpha_max": 1.1}, r"alpha_max of FAB is the largest weight of the image, in \[0, 1\], not 1.1"),
        ({"eta": 0.9}, "eta of FAB is how far past the hyperplane it steps, 1 or more, not 0.9"),
        ({"beta": 1.0}, r"beta of FAB is the share of the change that it keeps, in \(0, 1\), not 1.0"),
        ({"alpha_max": math.nan}, "alpha_max of FAB"),
        ({"eta": math.nan}, "eta of FAB"),
        ({"beta": math.nan}, "beta of FAB"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        FAB(**settings)  # type: ignore[arg-type]
