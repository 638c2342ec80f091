"""Symptoms in the answers: randomness, loops and probabilities, planted and absent."""

import sys

import pytest
import torch
from symptom_toys import After, Before, Plain, Purifier, subject, undeclared_noise
from torch import nn

from casemate.audit.symptoms.answers import Logits, inner_loop, probabilities, randomness
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


def test_probabilities_fail_and_their_logarithm_stands_in_for_logits() -> None:
    plain = Plain()
    found = probabilities(subject(After(nn.Softmax(dim=1), plain)))
    assert (found.id, found.status, found.statistic) == ("G12", "fail", 1)
    x = models.images(16, (1, 8, 8))
    restored, logits = Logits(After(nn.Softmax(dim=1), plain))(x), plain(x)
    assert torch.allclose(restored, logits.log_softmax(dim=1), atol=1e-5)
    sure = Logits(nn.Softmax(dim=1))(torch.tensor([[1000.0, 0.0, -1000.0]]))
    assert sure.isfinite().all()
    assert int(sure.argmax()) == 0


def test_an_engine_asks_a_classifier_that_takes_gradients_of_its_own() -> None:
    one = subject(Purifier(Plain()))
    with torch.no_grad():
        assert torch.allclose(one.engine.logits(one.x), one.engine.model(one.x), atol=1e-5)
