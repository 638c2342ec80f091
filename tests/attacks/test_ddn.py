"""DDN against the distances of affine classifiers."""

import math

import pytest
import torch
from attack_toys import SHAPE, Affine, keys, near_grey, zeros
from torch import Tensor, nn

from casemate import L2
from casemate.attacks import DDN
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import margin
from casemate.testing import check_attack, models


@pytest.mark.parametrize("n_classes", [2, 10])
def test_comes_within_a_hundredth_of_the_distance_of_an_affine_classifier(n_classes: int) -> None:
    model, x = Affine(n_classes), near_grey(20)
    known = model.distance(x, dual=2)
    found = DDN().nearest(model, x, zeros(20), L2(1), keys=keys(20))
    assert (found.distance >= known * (1 - 1e-5)).all()
    # The cross-entropy follows the most likely class, which is the nearest one for most images.
    assert (found.distance <= 1.01 * model.distance_to_class_of(found.x_adv, x, dual=2)).all()
    assert (found.distance <= 1.01 * known).sum() >= (20 if n_classes == 2 else 11)


def test_the_box_is_met_and_kept() -> None:
    # Images on the box, and a boundary that cannot be reached along the normal alone.
    model = models.Linear(SHAPE, bias=float(models.Linear(SHAPE).gain(torch.zeros(1, *SHAPE), L2(1.0)) * 0.9))
    x = torch.zeros(2, *SHAPE)
    model.bias -= 0.5 * float(model.weight.sum())
    found = DDN(n_steps=150).nearest(model, x, zeros(2), L2(1), keys=keys(2))
    # The gain at the least radius is what the image lacks.
    assert (found.distance < 0.9 * 1.02).all()
    assert (found.distance > 0.9 * 0.999).all()


class Plateau(nn.Module):
    """Flat around grey 0.5, and class 1 beyond a distance of 0.4 in any direction."""

    def forward(self, x: Tensor) -> Tensor:
        distance = (x - 0.5).flatten(1).norm(dim=1)
        ahead = (distance - 0.2).relu() - 0.2
        return torch.stack([-ahead, ahead], dim=1)


def test_flat_spot_is_left_in_a_random_direction() -> None:
    x = torch.full((3, *SHAPE), 0.5)
    found = DDN(n_steps=60).nearest(Plateau(), x, zeros(3), L2(1), keys=keys(3))
    assert (found.distance > 0.4).all()
    assert (found.distance < 0.41).all()
    assert not torch.equal(found.x_adv[0], found.x_adv[1]), "each image has a direction of its own"


class Late(nn.Module):
    """An affine classifier that calls twice as much wrong in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.affine = Affine(2)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.affine(x).float()
        if x.dtype == torch.bfloat16:
            logits[:, 1] += 7.5
        return logits


def test_only_what_the_classifier_itself_gets_wrong_is_claimed() -> None:
    x = near_grey(6)
    engine = Engine(Late(), precision="bfloat16")
    found = DDN(n_steps=100).nearest(engine, x, zeros(6), L2(1), keys=keys(6))
    known = Affine(2).distance(x, dual=2)
    assert (found.distance >= known * (1 - 1e-5)).all()
    assert (found.distance <= known * 1.02).all(), "the search follows the exact answers where it has them"
    assert (margin(Affine(2)(found.x_adv), zeros(6)) > 0).all()


def test_keeps_the_promises_of_an_attack() -> None:
    check_attack(DDN(n_steps=30), threats=[L2(0.5)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "DDN needs at least 1 step, not 0"),
        ({"gamma": 0.0}, r"gamma of DDN is the share by which the norm changes, in \(0, 1\), not 0.0"),
        ({"gamma": 1.0}, "gamma of DDN"),
        ({"gamma": math.nan}, "gamma of DDN"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        DDN(**settings)  # type: ignore[arg-type]
