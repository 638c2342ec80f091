from fractions import Fraction
from math import comb

import pytest

from casemate.audit import Bracket, clopper_pearson
from casemate.errors import CasemateError


def at_least(k: int, n: int, share: Fraction) -> Fraction:
    """P(X >= k) for X binomial(n, share), exactly."""
    return sum((comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(k, n + 1)), Fraction(0))


@pytest.mark.parametrize("n", [1, 2, 7, 30, 100])
def test_each_limit_leaves_a_tail_of_a_fortieth(n):
    for k in range(0, n + 1, max(1, n // 15)):
        lower, upper = clopper_pearson(k, n)
        if k > 0:
            assert float(at_least(k, n, Fraction(lower))) == pytest.approx(0.025, rel=1e-9)
        if k < n:
            assert float(1 - at_least(k + 1, n, Fraction(upper))) == pytest.approx(0.025, rel=1e-9)
        assert 0 <= lower <= k / n <= upper <= 1


def test_none_and_all():
    assert clopper_pearson(0, 50)[0] == 0
    assert clopper_pearson(50, 50)[1] == 1
    # The tail of k = n is share^n alone.
    assert clopper_pearson(50, 50)[0] == pytest.approx(0.025 ** (1 / 50), rel=1e-12)
    assert clopper_pearson(0, 50)[1] == pytest.approx(1 - 0.025 ** (1 / 50), rel=1e-12)


@pytest.mark.parametrize("share", [Fraction(1, 100), Fraction(1, 3), Fraction(9, 10)])
def test_it_covers_every_share_as_often_as_it_says(share):
    n = 40
    covered = Fraction(0)
    for k in range(n + 1):
        lower, upper = clopper_pearson(k, n)
        if lower <= share <= upper:
            covered += comb(n, k) * share**k * (1 - share) ** (n - k)
    assert covered >= Fraction(95, 100)


@pytest.mark.parametrize(("k", "n", "level"), [(-1, 5, 0.95), (6, 5, 0.95), (0, 0, 0.95), (1, 5, 1.0)])
def test_refusals(k, n, level):
    with pytest.raises(CasemateError, match="0 <= k <= n"):
        clopper_pearson(k, n, level)


def test_the_bracket_of_the_design():
    bracket = Bracket(misclassified=3, broken=15, certified=0, unresolved=182)
    assert (bracket.n, bracket.clean_accuracy, bracket.attacked_accuracy) == (200, 0.985, 0.91)
    assert bracket.certified_accuracy == 0
    assert [round(end, 3) for end in bracket.interval] == [0.0, 0.946]


def test_the_bracket_counts_what_is_certified_at_both_ends():
    bracket = Bracket(misclassified=0, broken=10, certified=80, unresolved=10)
    assert (bracket.certified_accuracy, bracket.attacked_accuracy) == (0.8, 0.9)
    assert bracket.interval == (clopper_pearson(80, 100)[0], clopper_pearson(90, 100)[1])
