"""Empirical risk minimisation: cross-entropy on the images as they are."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from casemate.losses import Labels
from casemate.threat import Images
from casemate.training.objective import Step


@dataclass(frozen=True)
class Natural:
    """Mean cross-entropy on the clean batch."""

    label_smoothing: float = 0.0

    def __call__(self, model: nn.Module, x: Images, y: Labels, *, step: Step) -> Tensor:
        return F.cross_entropy(model(x), y, label_smoothing=self.label_smoothing)
