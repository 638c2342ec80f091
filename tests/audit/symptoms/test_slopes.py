"""Symptoms in the gradient: absent, saturated, wrong and noisy ones, and a plain classifier that has none."""

import pytest
import torch
from symptom_toys import After, Before, Flip, Plain, straight_through, subject, zero_gradient
from torch import Tensor

from casemate.audit.symptoms.slopes import noise, unusable, wrong


@pytest.mark.parametrize("check", [unusable, wrong, noise])
def test_a_plain_classifier_has_none(check) -> None:  # type: ignore[no-untyped-def]
    symptom = check(subject(Plain()))
    assert (symptom.status, symptom.remedy) == ("pass", "")


def test_no_gradient_fails() -> None:
    found = unusable(subject(Before(zero_gradient, Plain())))
    assert (found.id, found.status, found.statistic) == ("G7", "fail", 1)
    assert wrong(subject(Before(zero_gradient, Plain()))).status == "fail"


def test_saturation_is_told_from_a_gradient_that_is_missing() -> None:
    found = unusable(subject(After(lambda logits: 1e4 * logits, Plain())))
    assert (found.id, found.status) == ("G7", "warn")
    assert "margin" in found.remedy


def test_a_gradient_of_the_other_sign_fails() -> None:
    found = wrong(subject(Before(Flip.apply, Plain())))
    assert (found.id, found.status) == ("G8", "fail")
    # The difference and the promise are opposite: off by twice the larger.
    assert found.statistic == pytest.approx(2, abs=0.05)


def test_a_surrogate_that_points_upwards_is_a_warning() -> None:
    # Seven levels: a short step crosses few of their edges, a long one along the gradient enough.
    found = wrong(subject(Before(straight_through, Plain())))
    assert (found.id, found.status) == ("G8", "warn")


def test_a_landscape_of_ripples_is_noise() -> None:
    def rippled(x: Tensor) -> Tensor:
        return x + 0.02 * torch.sin(2000 * x)

    found = noise(subject(Before(rippled, Plain())))
    assert (found.id, found.status) == ("G9", "warn")
    assert found.statistic < 0.5
