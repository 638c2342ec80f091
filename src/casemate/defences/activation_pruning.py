"""Stochastic activation pruning (Dhillon et al., ICLR 2018, arXiv:1803.01442): small activations are dropped at random.

Faithful to the paper, which prunes what an activation function has answered. The re-implementation that Athalye et al.
2018 attacked pruned before it, and each value by itself; the attack they published does not work on the paper's own,
but one with the identity for a gradient does (Dhillon and Carlini, arXiv:2010.00071).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from casemate import rng
from casemate.defences.activations import ACTIVATIONS, replaced
from casemate.errors import CasemateError

Activations = Float[Tensor, "batch ..."]


class ActivationPruning(nn.Module):
    """Draws r = floor(share n) of an image's n activations with replacement and drops those that were never drawn.

    Activation a_i is drawn with p_i = |a_i| / sum |a|, so that it stays with probability q_i = 1 - (1 - p_i)^r; what
    stays becomes a_i / q_i (algorithm 1). The mean over draws is therefore a itself. `share` is the paper's percentage:
    1 is its SAP-100. Activations [N, ...] of any shape, all of an image in one draw; at least one draw. `place`
    tells the layers of a network apart, which must not draw alike.

    The surrogate is the identity: the exact gradient of the mean, though which activations stay has no gradient and
    the division by q_i turns what autograd makes of the rest away from it (a rare a_i becomes sum |a| / r whatever its
    size). Attacks average over draws as well, for the layers that follow see one draw and not the mean. On a small
    network for digits (share 0.25, linf 0.1, PGD-20, 100 images) the mean of autograd's gradients leaves 76%, this
    one 37%, and the network without pruning has 34%.

    Draws have 24 bits: activations of less than a few 2^-24 of the sum stay a little more or less often than q_i.
    Raises `CasemateError` for a share that is not positive.
    """

    stochastic = True

    def __init__(self, share: float = 1.0, place: int = 0) -> None:
        super().__init__()
        if not share > 0:
            raise CasemateError(f"the share of activations that pruning draws must be positive, not {share}")
        self.share, self.place = share, place

    def forward(self, activations: Activations) -> Activations:
        # In float32 also where the network is not: probabilities are small and there are many.
        flat = activations.flatten(1).float()
        n_draws = max(1, int(self.share * flat.shape[1]))
        size = flat.abs()
        draws = rng.uniform(rng.layer_keys(activations, f"activation pruning {self.place}"), (n_draws,))
        kept = _drawn(size.detach(), draws)
        p = size / size.sum(dim=1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
        # 1 - (1 - p)^r without cancellation; the bound on p keeps the gradient finite where one activation is all.
        q = -torch.expm1(n_draws * torch.log1p(-p.clamp(max=1 - 2**-24)))
        pruned = torch.where(kept, flat, 0) / torch.where(kept, q, 1)
        return pruned.reshape(activations.shape).to(activations.dtype)

    def surrogate(self, activations: Activations) -> Activations:
        return activations

    def extra_repr(self) -> str:
        return f"share={self.share:g}, place={self.place}"


def with_activation_pruning(network: nn.Module, share: float = 1.0) -> nn.Module:
    """A copy of `network` with `ActivationPruning(share)` after every activation; the paper does not train it again.

    Each place draws for itself; a module that is called twice in one forward pass draws alike both times. Raises
    `CasemateError` where the network has no activation among its modules.
    """
    return replaced(
        network, ACTIVATIONS, lambda activation, place: nn.Sequential(activation, ActivationPruning(share, place))
    )


def _drawn(size: Float[Tensor, "batch values"], draws: Float[Tensor, "batch draws"]) -> Tensor:
    """Which values, bool [batch, values], a uniform number of `draws` fell on, each as wide as its size."""
    ends = size.double().cumsum(dim=1)
    # The first end beyond the number; a value of size 0 ends where it begins and is never that.
    fell = torch.searchsorted(ends, draws.double() * ends[:, -1:], right=True)
    # Beyond the last only where all sizes are 0.
    kept = torch.zeros_like(size, dtype=torch.bool).scatter_(1, fell.clamp(max=size.shape[1] - 1), True)
    return kept & (size > 0)
