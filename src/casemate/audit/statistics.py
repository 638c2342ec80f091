"""Exact binomial intervals, and the bracket around robust accuracy."""

from dataclasses import dataclass

from scipy.special import betaincinv

from casemate.errors import CasemateError

LEVEL = 0.95


def clopper_pearson(k: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact two-sided interval for a share of which k of n draws were seen (Clopper & Pearson, Biometrika 1934).

    It holds the true share with probability at least `level`, whatever that share is: each limit is the share at
    which so extreme a count has probability (1 - level) / 2. The lower limit is 0 at k = 0, the upper 1 at k = n.
    Raises `CasemateError` unless 0 <= k <= n, 1 <= n and 0 < level < 1.
    """
    if not (0 <= k <= n and n >= 1 and 0 < level < 1):
        raise CasemateError(
            f"an interval needs 0 <= k <= n, n >= 1 and a level between 0 and 1, not k={k}, n={n}, level={level}"
        )
    tail = (1 - level) / 2
    lower = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    upper = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return lower, upper


@dataclass(frozen=True)
class Bracket:
    """What is known of the robust accuracy on n images: certified share <= robust accuracy <= attacked share.

    The four are the counts of the verdicts; each image has one.
    """

    misclassified: int
    broken: int
    certified: int
    unresolved: int

    @property
    def n(self) -> int:
        return self.misclassified + self.broken + self.certified + self.unresolved

    @property
    def clean_accuracy(self) -> float:
        return (self.n - self.misclassified) / self.n

    @property
    def certified_accuracy(self) -> float:
        return self.certified / self.n

    @property
    def attacked_accuracy(self) -> float:
        return (self.certified + self.unresolved) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The lower limit of the certified share and the upper limit of the attacked one, each of its 95% interval.

        For the population the images were drawn from; the two accuracies themselves are exact for these images.
        """
        lower, _ = clopper_pearson(self.certified, self.n)
        _, upper = clopper_pearson(self.certified + self.unresolved, self.n)
        return lower, upper
