"""Defensive distillation (Papernot et al. 2016, arXiv:1511.04508): soft labels of a teacher at a high temperature."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casemate.losses import Labels
from casemate.threat import Images
from casemate.training.objective import Step


@dataclass(frozen=True, eq=False)
class Distilled:
    """Mean cross-entropy of softmax(logits / `temperature`) with the teacher's, at the same temperature (section IV).

    Without a `teacher` the labels take its place: that is how the teacher itself is trained. The paper's networks have
    the same architecture and its MNIST defence a temperature of 100. The network is deployed with its logits as they
    are, which are then about `temperature` times those of an ordinary network: the softmax saturates, and the gradient
    of the cross-entropy underflows to 0 (Carlini and Wagner 2017, section IV). Divide the logits, or attack the margin.
    """

    temperature: float = 100.0
    teacher: nn.Module | None = None

    def __call__(self, model: nn.Module, x: Images, y: Labels, *, step: Step) -> Tensor:
        if self.teacher is None:
            return F.cross_entropy(model(x) / self.temperature, y)
        with torch.no_grad():
            soft_labels = (self.teacher.to(x.device)(x) / self.temperature).softmax(dim=1)
        return F.cross_entropy(model(x) / self.temperature, soft_labels)
