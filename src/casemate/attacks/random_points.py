"""Points of the threat model at random: what breaks there needs no gradient to be found."""

from dataclasses import dataclass

from casemate import rng
from casemate.attacks.standing import Standing
from casemate.errors import CasemateError
from casemate.gradients import Classifier
from casemate.losses import Labels
from casemate.threat import Images, Threat


@dataclass(frozen=True)
class RandomPoints:
    """The worst of `n_points` points: in turn uniform in the threat model, and eps away in a random direction.

    In linf the latter are corners of the ball. Athalye et al. (2018, section 3.1) and Carlini et al. (2019) sample so
    where gradients may be masked: random points that break what gradients do not break show that they are. Cost:
    n_points + 1 forward passes.
    """

    n_points: int = 1000

    def __post_init__(self) -> None:
        if self.n_points < 1:
            raise CasemateError(f"at least 1 random point is needed, not {self.n_points}")

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        standing = Standing(model, x, y, keys=keys)
        for number in range(self.n_points):
            if not standing:
                break
            at = standing.index
            draw = rng.fold(keys[at], "point", number)
            standing.record_exactly(_far(x[at], threat, draw) if number % 2 else threat.sample(x[at], draw))
        return standing.best


def _far(x: Images, threat: Threat, keys: rng.Keys) -> Images:
    """A point eps away in a random direction, or on the box where that is nearer."""
    return threat.project(x + threat.eps * threat.ascent(rng.normal(keys, x.shape[1:]), x), x)
