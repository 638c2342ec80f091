"""What the held-out check watches for: robust overfitting and catastrophic overfitting."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """Accuracies in [0, 1] on the same held-out images after an epoch.

    `one_step` is after FGSM, `attacked` after several PGD steps, both at the eps of the recipe.
    """

    step: int
    epoch: float
    clean: float
    one_step: float
    attacked: float


def catastrophic_overfitting(checks: list[Check]) -> bool:
    """Whether the last check shows multi-step accuracy collapsing while one-step accuracy stays high.

    The sign of a single-step objective that learnt to fool its own attack (Wong et al. 2020, section 5.4): attacked
    accuracy fell by more than 20 points from its best, and one-step accuracy exceeds it by more than 40.
    """
    if len(checks) < 2:
        return False
    best, last = max(check.attacked for check in checks), checks[-1]
    return last.attacked < best - 0.2 and last.one_step > last.attacked + 0.4


def robust_overfitting(checks: list[Check], patience: int) -> bool:
    """Whether attacked accuracy has not improved for `patience` checks (Rice et al. 2020: stop early, keep the best)."""
    best = max(range(len(checks)), key=lambda place: checks[place].attacked)
    return len(checks) - 1 - best >= patience
