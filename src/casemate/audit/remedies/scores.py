"""The last resort: a gradient from scores alone, for a classifier that has none of use (G7, G8, G11)."""

from typing import Any

import torch
from torch import Tensor, nn

from casemate import rng
from casemate.losses import Logits
from casemate.threat import Images


class FromScores(nn.Module):
    """A classifier whose gradient is estimated from its answers at `n_pairs` pairs of points around each image.

    Backwards, v becomes 1 / (2 sigma S) sum_s <v, f(x + sigma u_s) - f(x - sigma u_s)> u_s with Gaussian u_s
    (antithetic sampling; Ilyas et al. 2018, algorithm 1): the estimate of `casemate.attacks.estimates`, but of any
    loss, so that every attack by gradient can follow it. Points are clipped to the box. Costs 2 `n_pairs` + 1 forward
    passes for a gradient.
    """

    stochastic = True

    def __init__(self, model: nn.Module, sigma: float, n_pairs: int) -> None:
        super().__init__()
        self.model, self.sigma, self.n_pairs = model, sigma, n_pairs

    def forward(self, x: Images) -> Logits:
        answer: Tensor = _Estimated.apply(x, self.model, self.sigma, self.n_pairs, rng.layer_keys(x, "scores"))
        return answer


class _Estimated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Images, model: nn.Module, sigma: float, n_pairs: int, keys: rng.Keys) -> Tensor:
        ctx.save_for_backward(x)
        ctx.model, ctx.sigma, ctx.n_pairs, ctx.keys = model, sigma, n_pairs, keys
        # The backward pass may run in another thread, where no keys are ambient.
        ctx.ambient = rng.ambient_keys(x)
        answer: Tensor = model(x.clone())
        return answer.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (x,) = ctx.saved_tensors
        total = torch.zeros_like(x)
        with rng.drawing_from(ctx.ambient):
            for pair in range(ctx.n_pairs):
                drawn = rng.normal(rng.fold(ctx.keys, pair), x.shape[1:]).to(x)
                ahead = ctx.model((x + ctx.sigma * drawn).clamp(0, 1))
                behind = ctx.model((x - ctx.sigma * drawn).clamp(0, 1))
                slope = ((ahead - behind).detach() * gradients[0]).sum(dim=1) / (2 * ctx.sigma)
                total += slope[:, None, None, None] * drawn
        return total / ctx.n_pairs, None, None, None, None
