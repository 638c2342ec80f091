"""The one-step attacks are their formulas on a linear classifier."""

import pytest
import torch
from attack_toys import SHAPE, Counted, at_distances, keys, zeros

from casemate import FGSM, L1, L2, Linf, rng
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.testing import models


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
def test_linf_step_is_eps_times_the_sign(loss: str) -> None:
    linear = models.Linear(SHAPE, bias=3.0, scale=0.5)
    x = models.images(20, SHAPE)
    x_adv = FGSM(loss=loss)(linear, x, zeros(20), Linf(0.1), keys=keys(20))
    wrong = linear(x).argmax(dim=1) != 0
    expected = torch.where(wrong.view(-1, 1, 1, 1), x, (x + 0.1 * linear.weight.sign()).clamp(0, 1))
    assert torch.allclose(x_adv, expected, atol=1e-6)


def test_l2_step_is_eps_along_the_gradient() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.tensor([0.02, 0.1]))
    x_adv = FGSM()(linear, x, zeros(2), L2(0.5), keys=keys(2))
    assert torch.allclose(x_adv, x + 0.5 * linear.weight / linear.weight.norm(), atol=1e-6)


def test_l1_step_spends_eps_on_the_largest_entries() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.tensor([0.1]))
    change = (FGSM()(linear, x, zeros(1), L1(0.4), keys=keys(1)) - x).flatten()
    top = linear.weight.flatten().abs().topk(2).indices
    assert sorted(change.nonzero().flatten().tolist()) == sorted(top.tolist())
    weights = linear.weight.flatten()[top]
    assert torch.allclose(change[top], 0.4 * weights / weights.abs().sum(), atol=1e-6)


def test_random_start_steps_from_the_sampled_point() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.full((5,), 0.3))
    x_adv = FGSM(random_start=True)(linear, x, zeros(5), Linf(0.1), keys=keys(5))
    start = Linf(0.1).sample(x, rng.fold(keys(5), "start"))
    expected = Linf(0.1).project(start + 0.1 * linear.weight.sign(), x)
    assert torch.allclose(x_adv, expected, atol=1e-6)


@pytest.mark.usefixtures("_in_eights")
def test_cost_is_one_gradient_and_two_forward_passes() -> None:
    counted = Counted(models.Linear(SHAPE))
    x = at_distances(counted.model, torch.full((16,), 0.3))
    FGSM()(Engine(counted, batch_size=16), x, zeros(16), Linf(0.1), keys=keys(16))
    assert counted.counts == {"gradients": 16, "verdicts": 32}


def test_unknown_loss_is_refused() -> None:
    with pytest.raises(CasemateError, match="unknown loss"):
        FGSM(loss="hinge")(models.Linear(SHAPE), models.images(1, SHAPE), zeros(1), Linf(0.1), keys=keys(1))
