"""The ways to a gradient side by side on a few images: what each finds, judged by the classifier itself."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from casemate import rng
from casemate.attacks import PGD
from casemate.audit.remedies import ways
from casemate.audit.remedies.ways import Way
from casemate.audit.symptoms.subject import Subject
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import margin

ATTACK = PGD(n_steps=20, loss="margin")


@dataclass(frozen=True)
class Measured:
    """What `ATTACK` by one way broke of `n` images, and the mean margin it left; None where the way has no gradient."""

    way: Way
    n: int
    broke: int
    margin: float | None

    def as_json(self) -> dict[str, Any]:
        return {
            "way": ways.as_json(self.way),
            "name": str(self.way),
            "n": self.n,
            "broke": self.broke,
            "margin": self.margin,
        }


def measured(
    candidates: Sequence[Way], engine_by: Callable[[Way], Engine], subject: Subject, progress: Callable[[str], None]
) -> list[Measured]:
    """`ATTACK` by each way on the images of `subject`, from the same starts; `engine_by` makes the engine of a way."""
    x, y, keys = subject.x, subject.y, subject.keys
    found = []
    for way in candidates:
        progress(str(way))
        engine = engine_by(way)
        try:
            x_adv = ATTACK(engine, x, y, subject.threat, keys=rng.fold(keys, "ways"))
        except (CasemateError, RuntimeError):
            # A way that does not exist for this classifier is none; what else is wrong with it the attacks will meet.
            found.append(Measured(way, len(x), 0, None))
            continue
        logits = engine.logits(x_adv, keys=keys)
        broke = int((logits.argmax(dim=1) != y).sum())
        found.append(Measured(way, len(x), broke, -float(margin(logits, y).mean())))
    return found


def best(found: Sequence[Measured]) -> Measured:
    """The way that broke most, then the one that left the least margin; of equals the first."""
    return min(found, key=lambda one: (-one.broke, math.inf if one.margin is None else one.margin))
