"""Planted attacks: each with a fault, and the list of them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from casemate import rng
from casemate.attacks import PGD, Attack, maximise
from casemate.gradients import Classifier, engine_for
from casemate.losses import Labels, cross_entropy
from casemate.testing.planted.defences import flipped_gradient
from casemate.threat import Images, Threat


@dataclass(frozen=True)
class PlantedAttack:
    """An attack with a fault, and the checks that must find it on a classifier which `PGD` breaks.

    `against` is what to plant in that classifier first, where the fault does not show on it as it is.
    """

    name: str
    attack: Attack
    trips: tuple[str, ...]
    against: Callable[[nn.Module], nn.Module] | None = None


@dataclass(frozen=True)
class LastIterate:
    """PGD on the cross-entropy that returns where it ends, and not the worst point it has met.

    Where the gradient is sound the two are the same, for ascent does not leave what it has broken. Where it misleads
    they are not: on `flipped_gradient` whatever is misclassified on the way comes back classified right.
    """

    n_steps: int = 40

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        return maximise(
            engine_for(model),
            x,
            y,
            threat,
            keys=keys,
            start=threat.sample(x, rng.fold(keys, "start")),
            n_steps=self.n_steps,
            step_size=PGD(n_steps=self.n_steps).step_size_for(threat),
            loss=cross_entropy,
        )


@dataclass(frozen=True)
class TinySteps:
    """PGD from the image itself with steps of eps / 1000: after `n_steps` it has hardly left it."""

    n_steps: int = 40

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        pgd = PGD(n_steps=self.n_steps, step_size=threat.eps / 1000, random_start=False)
        return pgd(model, x, y, threat, keys=keys)


@dataclass(frozen=True)
class Inert:
    """Returns the images as they came and never asks the classifier, as an attack does whose errors are swallowed."""

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        return x.clone()


PLANTED_ATTACKS: tuple[PlantedAttack, ...] = (
    PlantedAttack("last iterate", LastIterate(), ("I3",), against=flipped_gradient),
    PlantedAttack("steps of eps / 1000", TinySteps(), ("G6", "I4", "BIN")),
    PlantedAttack("inert", Inert(), ("G13",)),
)
