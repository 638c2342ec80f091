"""Planted sequences of checks: (clean, one-step, attacked) accuracy."""

import pytest

from casemate.training.guard import (
    Check,
    catastrophic_overfitting,
    has_overfitted_catastrophically,
    robust_overfitting,
    should_stop,
)


def checks(*accuracies: tuple[float, float, float]) -> list[Check]:
    return [Check(number, float(number), *triple) for number, triple in enumerate(accuracies, start=1)]


HEALTHY = checks((0.6, 0.4, 0.3), (0.8, 0.6, 0.5), (0.85, 0.65, 0.55))
COLLAPSED = [*HEALTHY, Check(4, 4.0, 0.86, 0.95, 0.02)]
RECOVERED = [*COLLAPSED, Check(5, 5.0, 0.86, 0.66, 0.5)]


def test_the_alarm_is_for_a_collapse_that_one_step_does_not_see() -> None:
    assert not catastrophic_overfitting([])
    assert not any(catastrophic_overfitting(HEALTHY[:n]) for n in range(1, 4))
    assert catastrophic_overfitting(COLLAPSED)
    assert not catastrophic_overfitting(RECOVERED)


def test_a_collapse_is_not_forgotten() -> None:
    assert not has_overfitted_catastrophically(HEALTHY)
    assert has_overfitted_catastrophically(COLLAPSED)
    assert has_overfitted_catastrophically(RECOVERED)


def test_the_gap_of_the_first_epochs_raises_no_alarm() -> None:
    """TRADES on MNIST while eps grows to 0.3, as measured."""
    warming_up = checks((0.976, 0.716, 0.094), (0.962, 0.854, 0.768), (0.98, 0.914, 0.862))
    assert not has_overfitted_catastrophically(warming_up)


@pytest.mark.parametrize(
    "last",
    [
        (0.5, 0.1, 0.02),  # both attacks break it: training diverged, or the classes were forgotten
        (0.86, 0.85, 0.4),  # less than 20 points lost
        (0.86, 0.4, 0.1),  # one-step accuracy followed
    ],
)
def test_other_losses_of_accuracy_are_no_catastrophic_overfitting(last: tuple[float, float, float]) -> None:
    assert not catastrophic_overfitting([*HEALTHY, *checks(last)])


def test_a_natural_network_raises_no_alarm() -> None:
    assert not has_overfitted_catastrophically(checks((0.9, 0.3, 0.02), (0.95, 0.5, 0.01), (0.97, 0.48, 0.0)))


def test_patience_counts_checks_since_the_best() -> None:
    sequence = checks((0.5, 0.5, 0.3), (0.6, 0.6, 0.4), (0.6, 0.6, 0.4), (0.6, 0.6, 0.39))
    assert [robust_overfitting(sequence[:n], 2) for n in range(1, 5)] == [False, False, False, True]
    assert not robust_overfitting(sequence, 3)


def test_only_patience_stops_training() -> None:
    assert not should_stop([], 1)
    assert not should_stop(COLLAPSED, None)
    assert should_stop(COLLAPSED, 10)
    assert not should_stop(HEALTHY, 1)
