"""Symptoms of one attack by the side of another: a classifier that hides its gradient has them, a plain one has not."""

import pytest
import torch
from symptom_toys import After, Before, Flip, Plain, subject, zero_gradient
from torch import Tensor

from casemate.attacks import FGSM, PGD, RandomPoints
from casemate.audit.symptoms.comparisons import (
    attacked,
    budgets,
    constrained,
    convergence,
    inert,
    unbounded,
    upsets,
    whole_box,
)
from casemate.audit.symptoms.paired import Pair, compared
from casemate.threat import L1, L2, Linf

PGD20 = PGD(n_steps=20, loss="margin")
REMEDIES = {"G1": "smaller steps", "G4": "gradients from scores"}


def pairs(one):  # type: ignore[no-untyped-def]
    gradient = attacked(one, PGD20, "PGD").broken
    return [
        ("G1", "one step", compared(attacked(one, FGSM(loss="margin"), "FGSM").broken, gradient)),
        ("G4", "random points", compared(attacked(one, RandomPoints(200), "random").broken, gradient)),
    ]


def test_a_plain_classifier_has_none() -> None:
    one = subject(Plain())
    found = [*upsets(pairs(one), REMEDIES), unbounded(one, PGD20), budgets(one, PGD20, 4)[0]]
    result = attacked(one, PGD20, "PGD")
    found += [inert(one, result), constrained(one, result)]
    assert {symptom.status for symptom in found} == {"pass"}, found


def test_a_hidden_gradient_shows_where_all_is_allowed_and_against_random_points() -> None:
    one = subject(Before(Flip.apply, Plain()))
    found = unbounded(one, PGD20)
    assert (found.id, found.status) == ("G3", "fail")
    assert found.statistic > 0.1
    flipped = {symptom.id: symptom for symptom in upsets(pairs(one), REMEDIES)}
    assert flipped["G4"].status in ("fail", "warn")
    assert flipped["G4"].remedy == "gradients from scores"


def test_success_that_does_not_grow_with_the_budget_has_stalled() -> None:
    def gate(x: Tensor) -> Tensor:
        # Nothing that is done to the image arrives.
        return x.detach() * 0 + 0.5 + 0 * x

    found, accuracy = budgets(subject(Before(gate, Plain())), PGD20, 4)
    assert (found.id, found.status) == ("G5", "warn")
    assert list(accuracy) == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.4, 0.8])
    assert set(accuracy.values()) == {1.0}


def test_a_smaller_budget_that_is_stronger_fails() -> None:
    class Overshooting:
        """An attack that gives up beyond eps."""

        def __call__(self, model, x, y, threat, *, keys):  # type: ignore[no-untyped-def]
            return PGD20(model, x, y, threat, keys=keys) if threat.eps <= 0.1 else x

    found, _ = budgets(subject(Plain()), Overshooting(), 4)
    assert (found.id, found.status) == ("G5", "fail")
    assert found.statistic > 5


def test_an_attack_that_does_nothing_is_inert() -> None:
    one = subject(Plain())
    found = inert(one, attacked(one, lambda model, x, y, threat, *, keys: x, "nothing"))
    assert (found.id, found.status, found.statistic) == ("G13", "fail", 0)


def test_points_outside_the_threat_model_are_counted() -> None:
    one = subject(Plain())
    far = 2 * one.threat.eps * torch.tensor([1.0, 0.0]).repeat(len(one.x))[: len(one.x)]
    found = constrained(one, attacked(one, lambda model, x, y, threat, *, keys: x + far[:, None, None, None], "far"))
    assert (found.id, found.status, found.statistic) == ("G14", "fail", 0.5)


def test_a_search_that_had_not_ended_moves_with_twice_the_steps() -> None:
    one = subject(After(lambda logits: logits, Plain()))
    short = [
        attacked(one, PGD(n_steps=steps, step_size=0.004, loss="margin", random_start=False), "PGD") for steps in (4, 8)
    ]
    found = convergence(*short)
    assert (found.id, found.status) == ("G6", "warn")
    long = attacked(one, PGD(n_steps=40, loss="margin"), "PGD")
    assert convergence(long, long).status == "pass"


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5), L1(2.0)])
def test_the_whole_box_holds_black_and_white(threat) -> None:  # type: ignore[no-untyped-def]
    black, white = torch.zeros(1, 3, 4, 5), torch.ones(1, 3, 4, 5)
    largest = whole_box(threat, black)
    assert type(largest) is type(threat)
    assert largest.contains(white, black).all()


def test_upsets_are_corrected_for_their_number() -> None:
    # 0.0078 alone is below 0.01; as the least of two it must be below 0.005.
    one = Pair(7, 0, 1000)
    assert upsets([("G1", "one", one)], REMEDIES)[0].status == "fail"
    assert [found.status for found in upsets([("G1", "one", one), ("G4", "other", one)], REMEDIES)] == ["warn"] * 2
    assert upsets([("G1", "one", Pair(0, 9, 1000))], REMEDIES)[0].remedy == ""


def test_of_several_weaker_attacks_the_worst_is_the_symptom() -> None:
    several = [("G4", "first", Pair(0, 9, 100)), ("G4", "second", Pair(40, 1, 100)), ("G4", "third", Pair(3, 0, 100))]
    (found,) = upsets(several, REMEDIES)
    assert (found.id, found.status, found.statistic) == ("G4", "fail", 40)
    assert found.meaning.startswith("second against the gradient: 40 of 100 images")


def test_no_gradient_and_no_success_go_together() -> None:
    one = subject(Before(zero_gradient, Plain()))
    assert unbounded(one, PGD20).status == "fail"
