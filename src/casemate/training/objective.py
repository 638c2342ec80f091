"""What a training objective is: a scalar loss of the model on a batch, given where training stands."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from casemate import rng
from casemate.gradients import Engine
from casemate.losses import Labels
from casemate.threat import L1, L2, Images, Linf


@dataclass(frozen=True)
class Step:
    """Where training stands: what an objective may depend on besides the batch.

    `number` counts optimiser steps from 0, `progress` is the share of all steps done, in [0, 1), and `epoch` the number
    of epochs, in fractions. `keys` [N] seed the randomness of each image in this step; `engine` gives input gradients
    of the model that is being trained.
    """

    number: int
    progress: float
    epoch: float
    keys: rng.Keys
    engine: Engine

    def frozen(self) -> Engine:
        """The engine with the weights of this step."""
        self.engine.refresh()
        return self.engine


@runtime_checkable
class Objective(Protocol):
    """Maps the model and a batch (images [N, C, H, W] in [0, 1], labels [N]) to the scalar to minimise.

    The model is called in the mode it is in (training), exactly once or on one concatenated batch, so that it may be
    wrapped for several devices; adversarial images come from `step.frozen()`, which is in eval mode.
    """

    def __call__(self, model: nn.Module, x: Images, y: Labels, *, step: Step) -> Tensor: ...


Ball = Linf | L2 | L1


def warmed(threat: Ball, warm_up: float, progress: float) -> Ball:
    """`threat` with eps growing linearly from 0 over the first `warm_up` share of training.

    Small networks that meet the full eps at once may stay at the constant classifier (Madry et al. 2018, figure 4).
    """
    if progress >= warm_up:
        return threat
    return replace(threat, eps=threat.eps * max(progress / warm_up, 1e-3))
