"""The check on held-out images, and what it watches for: robust overfitting and catastrophic overfitting."""

from collections.abc import Sequence
from dataclasses import dataclass

from casemate.attacks import FGSM, PGD
from casemate.gradients import Engine
from casemate.threat import Images
from casemate.training.batches import Batch
from casemate.training.objective import Ball


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


def accuracies(engine: Engine, held: Batch, threat: Ball, n_steps: int) -> tuple[float, float, float]:
    """Clean accuracy, and that after FGSM and after PGD on the margin loss with `n_steps` steps from a random start."""

    def right(x: Images) -> float:
        return float((engine.logits(x, keys=held.keys).argmax(dim=1) == held.y).double().mean())

    one_step = FGSM()(engine, held.x, held.y, threat, keys=held.keys)
    attacked = PGD(n_steps=n_steps, loss="margin")(engine, held.x, held.y, threat, keys=held.keys)
    return right(held.x), right(one_step), right(attacked)


def catastrophic_overfitting(checks: Sequence[Check]) -> bool:
    """Whether the last check shows multi-step accuracy collapsing while one-step accuracy stays high.

    The sign of a single-step objective that learnt to fool its own attack (Wong et al. 2020, section 5.4): attacked
    accuracy fell by more than 20 points from its best, and one-step accuracy exceeds it by more than 40. The gap alone
    says nothing: early in the warm-up of eps, sound training shows 60 points of it.
    """
    if len(checks) < 2:
        return False
    best, last = max(check.attacked for check in checks), checks[-1]
    return last.attacked < best - 0.2 and last.one_step > last.attacked + 0.4


def has_overfitted_catastrophically(checks: Sequence[Check]) -> bool:
    """Whether the alarm went off at any of the checks, though it may have recovered since."""
    return any(catastrophic_overfitting(checks[:n]) for n in range(1, len(checks) + 1))


def robust_overfitting(checks: Sequence[Check], patience: int) -> bool:
    """Whether attacked accuracy has not improved for `patience` checks (Rice et al. 2020)."""
    best = max(range(len(checks)), key=lambda place: checks[place].attacked)
    return len(checks) - 1 - best >= patience


def should_stop(checks: Sequence[Check], patience: int | None) -> bool:
    """Whether a recipe with this `patience` ends training here; None goes on whatever happens."""
    if not checks or patience is None:
        return False
    return catastrophic_overfitting(checks) or robust_overfitting(checks, patience)
