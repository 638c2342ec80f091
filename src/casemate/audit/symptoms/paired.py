"""Two attacks on the same images, of which one must be weaker: does it break what the other misses?"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool
from scipy.stats import binom
from torch import Tensor

from casemate.audit.symptoms.symptom import Status

LEVEL = 0.01
# AutoAttack warns where Square breaks more than this share that its gradients missed (Croce & Hein 2020).
NOTEWORTHY = 0.002


@dataclass(frozen=True)
class Pair:
    """Of `n` images, how many only the attack that must be weaker broke, and how many only the stronger one."""

    weaker_only: int
    stronger_only: int
    n: int

    @property
    def p_value(self) -> float:
        """One-sided exact McNemar test: P[Binomial(weaker_only + stronger_only, 1/2) >= weaker_only].

        The probability of as many upsets or more where the two are equally strong.
        """
        return float(binom.sf(self.weaker_only - 1, self.weaker_only + self.stronger_only, 0.5))

    def status(self, *, significant: bool) -> Status:
        """Fails where the weaker attack is the stronger one beyond chance; warns of every image it shows to be missed.

        Each such image is a proven miss, whatever the p-value; below a share of 0.002 of the images it is let pass.
        """
        if significant and self.weaker_only > self.stronger_only:
            return "fail"
        return "warn" if self.weaker_only >= max(1, NOTEWORTHY * self.n) else "pass"


def compared(weaker: Bool[Tensor, "batch"], stronger: Bool[Tensor, "batch"]) -> Pair:
    """The pair of two attacks, from which images [N] each of them broke."""
    return Pair(int((weaker & ~stronger).sum()), int((stronger & ~weaker).sum()), len(weaker))


def significant(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which of several tests reject, so that the probability of any false rejection is at most `level` (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    rejected = [False] * len(p_values)
    for rank, place in enumerate(order):
        if p_values[place] > level / (len(p_values) - rank):
            break
        rejected[place] = True
    return rejected
