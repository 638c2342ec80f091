"""Several attempts: who is tried, in which order, and that the worst outcome is kept."""

from dataclasses import dataclass, field

import pytest
import torch
from attack_toys import SHAPE, Counted, Decoy, Peak, at_distances, keys, zeros
from torch import Tensor

from casemate import FGSM, PGD, Linf, MultiTarget, Restarts, Transfer, Worst, rng
from casemate.attacks import Attack
from casemate.errors import CasemateError
from casemate.gradients import Classifier, Engine
from casemate.losses import margin
from casemate.testing import models
from casemate.threat import Images, Threat


@dataclass(frozen=True)
class Moves:
    """Moves each image by `distance` towards the boundary of a linear classifier, and notes what it was given."""

    distance: float
    calls: list[tuple[int, list[int]]] = field(default_factory=list, compare=False)

    def __call__(self, model: Classifier, x: Images, y: Tensor, threat: Threat, *, keys: rng.Keys) -> Images:
        assert isinstance(model, Engine)
        self.calls.append((len(x), keys.tolist()))
        return x + self.distance * models.Linear(SHAPE).weight.sign()


DISTANCES = torch.tensor([0.01, 0.03, 0.05, 0.2, -0.1])


def test_worst_gives_each_attack_what_those_before_it_left() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, DISTANCES)
    first, second, third = Moves(0.02), Moves(0.0), Moves(0.04)
    x_adv = Worst((first, second, third))(linear, x, zeros(5), Linf(0.1), keys=keys(5))
    assert [len(attack.calls) for attack in (first, second, third)] == [1, 1, 1]
    assert [attack.calls[0][0] for attack in (first, second, third)] == [4, 3, 3]
    moved = (x_adv - x).abs().amax(dim=(1, 2, 3))
    # By the attack that broke it, else by the one that came nearest; the misclassified one not at all.
    assert torch.allclose(moved, torch.tensor([0.02, 0.04, 0.04, 0.04, 0.0]), atol=1e-6)
    assert len({str(attack.calls[0][1][-1:]) for attack in (first, second, third)}) == 3, "keys of their own"


def test_worst_stops_when_nothing_stands() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.tensor([0.01, 0.02]))
    first, second = Moves(0.05), Moves(0.05)
    Worst((first, second))(linear, x, zeros(2), Linf(0.1), keys=keys(2))
    assert (len(first.calls), len(second.calls)) == (1, 0)


def test_worst_does_not_believe_an_attack() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.tensor([0.05, 0.05]))
    x_adv = Worst((Moves(-0.02), Moves(0.01), Moves(-0.05)))(linear, x, zeros(2), Linf(0.1), keys=keys(2))
    assert torch.allclose(x_adv, x + 0.01 * linear.weight.sign(), atol=1e-6)


def test_restarts_try_again_what_stands_with_other_keys() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, DISTANCES)
    attack = Moves(0.02)
    Restarts(attack, 3)(linear, x, zeros(5), Linf(0.1), keys=keys(5))
    assert [n for n, _ in attack.calls] == [4, 3, 3]
    used = [key for _, of_call in attack.calls for key in of_call]
    assert len(set(used)) == len(used)
    expected = rng.fold(keys(5)[1:4], "restart", 2).tolist()
    assert attack.calls[2][1] == expected, "an image's keys do not depend on which others stand"


def test_more_restarts_never_break_less() -> None:
    model = models.seeded(lambda: models.Rippled(SHAPE, ahead=4))
    x = models.images(100, SHAPE)
    y = model(x).argmax(dim=1)
    broken = [
        margin(model(Restarts(PGD(n_steps=3), n)(model, x, y, Linf(0.05), keys=keys(100))), y) > 0 for n in (1, 2, 6)
    ]
    for fewer, more in zip(broken, broken[1:], strict=False):
        assert not (fewer & ~more).any()
    assert 0 < int(broken[0].sum()) < int(broken[2].sum())


@pytest.mark.usefixtures("_in_eights")
def test_restarts_cost_what_their_hard_images_cost() -> None:
    counted = Counted(models.Linear(SHAPE))
    x = at_distances(counted.model, torch.cat([torch.full((56,), 0.005), torch.full((8,), 0.3)]))
    attack = PGD(n_steps=5)
    Restarts(attack, 10)(Engine(counted, batch_size=64), x, zeros(64), Linf(0.1), keys=keys(64))
    assert counted.counts["gradients"] < 10 * 5 * 8 + 56 * 4


def test_multi_target_reaches_a_class_that_the_best_wrong_one_hides() -> None:
    x = torch.full((4, *SHAPE), 0.5)
    hidden = PGD(n_steps=10, loss="margin", random_start=False)
    untargeted = hidden(Decoy(), x, zeros(4), Linf(0.1), keys=keys(4))
    assert (Decoy()(untargeted).argmax(dim=1) == 0).all()
    x_adv = MultiTarget(hidden, n_targets=2)(Decoy(), x, zeros(4), Linf(0.1), keys=keys(4))
    assert (Decoy()(x_adv).argmax(dim=1) == 2).all()


@pytest.mark.usefixtures("_in_eights")
def test_multi_target_tries_each_wrong_class_once() -> None:
    counted = Counted(Peak())
    x = torch.full((8, *SHAPE), 0.5)
    MultiTarget(PGD(n_steps=3, loss="margin"), n_targets=9)(
        Engine(counted, batch_size=8), x, zeros(8), Linf(0.1), keys=keys(8)
    )
    assert counted.counts["gradients"] == 1 * 3 * 8, "two classes: one wrong one"


@pytest.mark.parametrize("attack", [PGD(n_steps=3), FGSM(), Restarts(FGSM(random_start=True), 2), Worst((FGSM(),))])
def test_two_classes_are_enough(attack: Attack) -> None:
    x = torch.full((2, *SHAPE), 0.5)
    assert Linf(0.1).contains(attack(Peak(), x, zeros(2), Linf(0.1), keys=keys(2)), x).all()


def test_attempts_that_are_none_are_refused() -> None:
    with pytest.raises(CasemateError, match="at least 1 restart is needed, not 0"):
        Restarts(PGD(), 0)
    with pytest.raises(CasemateError, match="at least one attack"):
        Worst(())
    with pytest.raises(CasemateError, match="at least 1 target class is needed, not 0"):
        MultiTarget(n_targets=0)


def test_attacks_that_choose_their_targets_refuse_a_target_rank() -> None:
    for wrap in (MultiTarget, lambda attack: Transfer(models.Linear(SHAPE), attack)):
        with pytest.raises(CasemateError, match="target_rank"):
            wrap(PGD(target_rank=2))
