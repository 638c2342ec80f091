"""The remedy for answers that are probabilities (G12)."""

import torch
from torch import Tensor, nn

from casemate.losses import Logits
from casemate.threat import Images


class Logarithm(nn.Module):
    """The logarithms of a classifier's probabilities [N, classes], less that of the largest: logits, up to a constant.

    The decision is that of the probabilities exactly: of two that differ the logarithms differ too, for near the
    largest they are taken of the difference, which is exact (Sterbenz). What has underflowed to 0 counts as the
    smallest normal number.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Images) -> Logits:
        answers: Tensor = self.model(x)
        top = answers.amax(dim=1, keepdim=True)
        near = answers > top / 2
        # Each branch sees values at which its own gradient is finite.
        close = torch.log1p((torch.where(near, answers, top) - top) / top)
        far = torch.log(torch.where(near, top, answers).clamp(min=torch.finfo(answers.dtype).tiny) / top)
        return torch.where(near, close, far)
