"""Paired comparisons of attacks, against exact fractions and by their error rate."""

from fractions import Fraction
from math import comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from casemate.audit.symptoms.paired import Pair, compared, significant

counts = st.integers(0, 60)


@given(counts, counts)
def test_p_value_is_the_exact_binomial_tail(weaker: int, stronger: int) -> None:
    total = weaker + stronger
    tail = Fraction(sum(comb(total, k) for k in range(weaker, total + 1)), 2**total)
    assert Pair(weaker, stronger, 200).p_value == pytest.approx(float(tail), rel=1e-9)


def test_what_only_one_of_the_two_broke_is_counted() -> None:
    weaker = torch.tensor([True, True, False, False, True])
    stronger = torch.tensor([True, False, True, False, False])
    assert compared(weaker, stronger) == Pair(2, 1, 5)


@pytest.mark.parametrize(
    ("pair", "status"),
    [
        (Pair(0, 0, 200), "pass"),
        (Pair(0, 40, 200), "pass"),
        (Pair(1, 40, 200), "warn"),
        (Pair(1, 40, 1000), "pass"),
        (Pair(2, 40, 1000), "warn"),
        (Pair(6, 0, 200), "warn"),
        (Pair(7, 0, 200), "fail"),
        (Pair(30, 10, 200), "fail"),
        (Pair(25, 20, 200), "warn"),
    ],
)
def test_status(pair: Pair, status: str) -> None:
    (rejected,) = significant([pair.p_value])
    assert pair.status(significant=rejected) == status


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_the_smallest_first_and_no_more_than_without_correction(p_values: list[float]) -> None:
    rejected = significant(p_values, 0.05)
    for p_value, out in zip(p_values, rejected, strict=True):
        if out:
            assert p_value <= 0.05
            assert all(other for other, other_p in zip(rejected, p_values, strict=True) if other_p < p_value)
        else:
            assert p_value > 0.05 / len(p_values)


def test_holm_by_hand() -> None:
    # 0.01 / 3 < 0.004 is not rejected, and then nothing larger is.
    assert significant([0.2, 0.004, 0.0049], 0.01) == [False, False, False]
    # 0.003 <= 0.01 / 3, then 0.0049 <= 0.01 / 2, then 0.2 > 0.01.
    assert significant([0.2, 0.003, 0.0049], 0.01) == [False, True, True]
