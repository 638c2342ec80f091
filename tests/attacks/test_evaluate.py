"""What one attack breaks, counted by the classifier itself."""

import pytest
import torch
from attack_toys import SHAPE, at_distances, zeros

from casemate import PGD, Linf
from casemate.attacks import evaluate
from casemate.testing import models


def test_accuracy_before_and_after() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.tensor([0.05, 0.2, 0.3, -0.1, 0.01]))
    outcome = evaluate(linear, x, zeros(5), Linf(0.1), PGD(n_steps=10))
    assert outcome.right_before.tolist() == [True, True, True, False, True]
    assert outcome.right_after.tolist() == [False, True, True, False, False]
    assert outcome.clean_accuracy == pytest.approx(0.8)
    assert outcome.attacked_accuracy == pytest.approx(0.4)
    assert Linf(0.1).contains(outcome.x_adv, x).all()


def test_seed_decides_and_the_place_in_the_data_set_matters() -> None:
    model = models.seeded(lambda: models.Rippled(SHAPE, ahead=20))
    x = models.images(6, SHAPE)
    first, again, other = (
        evaluate(model, x, zeros(6), Linf(0.1), PGD(n_steps=1), seed=seed).x_adv for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(evaluate(model, x[:2], zeros(2), Linf(0.1), PGD(n_steps=1)).x_adv, first[:2])
