"""One attack on one data set: what it breaks."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from casemate import rng
from casemate.attacks.standing import Attack
from casemate.gradients import Classifier, engine_for
from casemate.losses import Labels
from casemate.threat import Images, Threat


@dataclass(frozen=True)
class Outcome:
    """The images an attack made [N, C, H, W], and which the classifier got right before and after [N]."""

    x_adv: Images
    right_before: Bool[Tensor, "batch"]
    right_after: Bool[Tensor, "batch"]

    @property
    def clean_accuracy(self) -> float:
        return float(self.right_before.double().mean())

    @property
    def attacked_accuracy(self) -> float:
        return float(self.right_after.double().mean())


def evaluate(model: Classifier, x: Images, y: Labels, threat: Threat, attack: Attack, *, seed: int = 0) -> Outcome:
    """Run `attack` on images [N, C, H, W] with labels [N] and judge the result by the classifier in full precision."""
    engine = engine_for(model)
    keys = rng.image_keys(seed, torch.arange(len(x), device=x.device))
    x_adv = attack(engine, x, y, threat, keys=keys)
    before = engine.logits(x, keys=keys).argmax(dim=1) == y
    after = (engine.logits(x_adv, keys=keys).argmax(dim=1) == y) & before
    return Outcome(x_adv, before, after)
