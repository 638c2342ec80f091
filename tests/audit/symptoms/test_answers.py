"""Symptoms in the answers: randomness, loops and probabilities, planted and absent."""

import sys
from dataclasses import replace

import pytest
import torch
from symptom_toys import After, Before, Plain, Purifier, subject, undeclared_noise
from torch import Tensor, nn

from casemate.audit.symptoms.answers import answers_probabilities, inner_loop, probabilities, randomness
from casemate.gradients import Engine
from casemate.testing import models

CHECKS = (randomness, inner_loop, probabilities)


@pytest.mark.parametrize("check", CHECKS)
def test_a_plain_classifier_has_none(check) -> None:  # type: ignore[no-untyped-def]
    symptom = check(subject(Plain()))
    assert (symptom.status, symptom.remedy) == ("pass", "")


def test_undeclared_randomness_fails_and_declared_does_not() -> None:
    found = randomness(subject(Before(undeclared_noise, Plain())))
    assert (found.id, found.status) == ("G10", "fail")
    assert found.statistic > 1e-4
    assert "stochastic" in found.remedy
    declared = randomness(subject(Before(models.Noisy(), Plain())))
    assert declared.status == "pass"
    assert "declared" in declared.meaning


def test_gradients_inside_the_classifier_are_counted() -> None:
    before = sys.getprofile()
    found = inner_loop(subject(Purifier(Plain())))
    assert (found.id, found.status, found.statistic) == ("G11", "fail", 2)
    assert sys.getprofile() is before


def test_a_loop_that_attacks_go_around_only_warns() -> None:
    one = subject(Purifier(Plain()))
    around = replace(one, engine=Engine(one.engine.model, stand_in=Plain()))
    assert inner_loop(around).status == "warn"
    assert inner_loop(around).statistic == 2

    class Covered(Purifier):
        def surrogate(self, x: Tensor) -> Tensor:
            return x

    assert inner_loop(subject(Covered(Plain()))).status == "pass"


def test_probabilities_fail() -> None:
    model = After(nn.Softmax(dim=1), Plain())
    found = probabilities(subject(model))
    assert (found.id, found.status, found.statistic) == ("G12", "fail", 1)
    x = models.images(2, (1, 8, 8))
    assert answers_probabilities(model, x)
    assert not answers_probabilities(Plain(), x)
    assert not answers_probabilities(Plain(), x[:, :, :3])


def test_an_engine_asks_a_classifier_that_takes_gradients_of_its_own() -> None:
    one = subject(Purifier(Plain()))
    with torch.no_grad():
        assert torch.allclose(one.engine.logits(one.x), one.engine.model(one.x), atol=1e-5)
