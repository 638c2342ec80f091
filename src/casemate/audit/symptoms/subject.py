"""What is diagnosed: a classifier made ready for attack, some images of its data, and the threat model."""

from dataclasses import dataclass, replace

from casemate import rng
from casemate.gradients import Engine
from casemate.losses import Labels
from casemate.threat import Images, Threat


@dataclass(frozen=True, eq=False)
class Subject:
    """`x` [n, C, H, W] are images that the classifier gets right, with their labels and keys."""

    engine: Engine
    x: Images
    y: Labels
    threat: Threat
    keys: rng.Keys

    def first(self, n: int) -> "Subject":
        return replace(self, x=self.x[:n], y=self.y[:n], keys=self.keys[:n])
