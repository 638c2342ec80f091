"""An exponential moving average of the weights, which is smoother and more robust than the last iterate."""

import copy

import torch
from torch import nn


class Average:
    """mean <- tau mean + (1 - tau) weights after each step, tau = min(decay, (1 + t) / (10 + t)) at step t.

    The ramp lets the mean forget the random start (Rebuffi et al. 2021 use the same). Buffers are copied: running
    statistics of batch normalisation are averages already.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, number: int) -> None:
        tau = min(self.decay, (1 + number) / (10 + number))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - tau)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
