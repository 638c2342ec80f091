"""Accuracy on the first test images, clean and under attack, with its interval."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from casemate import data
from casemate.attacks import Attack, evaluate
from casemate.audit.statistics import clopper_pearson
from casemate.gradients import Engine
from casemate.losses import Labels
from casemate.papers.networks import Network
from casemate.threat import Images, Linf, parse

# A difference of accuracies up to this is one of chance.
CHANCE = 0.05


@dataclass(frozen=True)
class Accuracy:
    """`right` of `n` images; accuracies are shares in [0, 1]."""

    right: int
    n: int

    def columns(self) -> dict[str, float]:
        """For a frame: the counts, the share, and its exact 95% interval (Clopper & Pearson 1934)."""
        low, high = clopper_pearson(self.right, self.n)
        return {"right": self.right, "n": self.n, "accuracy": self.right / self.n, "low": low, "high": high}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What all networks of a figure or table are judged on: images [n] and labels [n], a threat model and a seed."""

    threat: Linf
    x: Images
    y: Labels
    seed: int

    def accuracy(self, engine: Engine, attack: Attack | None) -> Accuracy:
        """What `attack` alone leaves of the accuracy; clean accuracy without one."""
        if attack is None:
            right = engine.logits(self.x).argmax(dim=1) == self.y
        else:
            right = evaluate(engine, self.x, self.y, self.threat, attack, seed=self.seed).right_after
        return Accuracy(int(right.sum()), len(self.y))


def evaluation(network: Network, n: int, seed: int) -> Evaluation:
    """The first `n` test images of the data that `network` was trained on, on its device, and its threat model."""
    threat = parse(network.recipe.threat)
    assert isinstance(threat, Linf), f"the networks of this paper are trained for linf, not {threat}"
    images = data.load(network.recipe.data, "test", limit=n)
    device = next(network.model.parameters()).device
    return Evaluation(threat, images.images.to(device), images.labels.to(device), seed)


def rises(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """Whether it holds that the accuracy grows from one row of a frame to another, by more than the intervals."""
    if last["low"] > first["high"]:
        return "holds"
    return "does not hold" if last["high"] < first["low"] else "too close for so few images"


def percent(row: Mapping[str, Any]) -> str:
    """The accuracy in a row of a frame, as "93.2 (90.6 to 95.2)"."""
    return f"{100 * row['accuracy']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
