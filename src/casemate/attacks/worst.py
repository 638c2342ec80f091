"""Several attempts on each image, the worst one kept: restarts, an ensemble of attacks, several target classes."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from casemate import rng
from casemate.attacks.apgd import APGD
from casemate.attacks.pgd import PGD
from casemate.attacks.standing import Attack, Standing
from casemate.errors import CasemateError
from casemate.gradients import Classifier
from casemate.losses import Labels
from casemate.threat import Images, Threat


@dataclass(frozen=True)
class Restarts:
    """`attack` from `n_restarts` independent random starts; an image that falls is not tried again."""

    attack: Attack
    n_restarts: int

    def __post_init__(self) -> None:
        if self.n_restarts < 1:
            raise CasemateError(f"at least 1 restart is needed, not {self.n_restarts}")

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        attempts = ((self.attack, ("restart", restart)) for restart in range(self.n_restarts))
        return _worst(model, x, y, threat, keys, attempts)


@dataclass(frozen=True)
class Worst:
    """Every attack in turn, each on the images that those before it left standing."""

    attacks: tuple[Attack, ...]

    def __post_init__(self) -> None:
        if not self.attacks:
            raise CasemateError("Worst needs at least one attack")

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        attempts = ((attack, ("attack", place)) for place, attack in enumerate(self.attacks))
        return _worst(model, x, y, threat, keys, attempts)


@dataclass(frozen=True)
class MultiTarget:
    """`attack` once towards each of the `n_targets` most likely wrong classes (Gowal et al. 2019, "MultiTargeted").

    With fewer wrong classes than `n_targets`, each is tried once.
    """

    attack: PGD | APGD = PGD(n_steps=100, loss="margin")
    n_targets: int = 9

    def __post_init__(self) -> None:
        if self.n_targets < 1:
            raise CasemateError(f"at least 1 target class is needed, not {self.n_targets}")
        if self.attack.target_rank is not None:
            raise CasemateError("MultiTarget chooses its targets itself: give it an attack without target_rank")

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        standing = Standing(model, x, y, keys=keys)
        ranks = range(1, min(self.n_targets, standing.clean_logits.shape[1] - 1) + 1)
        attempts = ((replace(self.attack, target_rank=rank), ("target", rank)) for rank in ranks)
        return _worst(model, x, y, threat, keys, attempts)


def _worst(
    model: Classifier,
    x: Images,
    y: Labels,
    threat: Threat,
    keys: rng.Keys,
    attempts: Iterable[tuple[Attack, tuple[str, int]]],
) -> Images:
    """Run the attempts in order, each on what still stands, with keys of its own."""
    standing = Standing(model, x, y, keys=keys)
    for attack, label in attempts:
        if not standing:
            break
        at = standing.index
        standing.record_exactly(attack(standing.engine, x[at], y[at], threat, keys=rng.fold(keys[at], *label)))
    return standing.best
