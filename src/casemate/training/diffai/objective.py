"""A goal of DiffAI as an objective of training."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from casemate.losses import Labels
from casemate.threat import Images
from casemate.training.certified import Traced
from casemate.training.diffai.batch import Batch
from casemate.training.diffai.goals import Goal
from casemate.training.objective import Ball, Step


@dataclass(frozen=True)
class DiffAI(Traced):
    """The loss of `goal`. Batch normalisation has the statistics of the clean images everywhere."""

    threat: Ball
    goal: Goal

    def __call__(self, model: nn.Module, x: Images, y: Labels, *, step: Step) -> Tensor:
        logits, graph = self.called(model, x, step)
        loss = self.goal.loss(Batch(graph, x, y, logits, self.threat, step, step.epoch, step.keys))
        # One process of several may meet a goal that uses no clean answer: its graph is walked all the same.
        return loss + 0 * logits.sum() if torch.is_grad_enabled() else loss
