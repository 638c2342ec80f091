"""k-winners-take-all (Xiao, Zhong and Zheng, ICLR 2020, arXiv:1905.10510): of a layer's values the largest k stay."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from casemate.defences.activations import replaced
from casemate.errors import CasemateError


class KWinners(nn.Module):
    """Keeps the k = floor(ratio n) largest of the n values of an image, at least one, and sets all others to 0.

    Section 3 of the paper, in the place of an activation after a linear or a convolutional layer: values [N, ...] of
    any shape, all channels and positions of an image in one contest. The largest values stay, not those of largest
    size; a winner may be negative. Values equal to the least winner all stay. The paper's ratios are 0.1 and 0.2, for
    networks trained with them: it has no use in a network trained with another activation.

    `surrogate` is None, and that is no oversight. The gradient exists almost everywhere and is the true one: that of
    the winners. It is useless because the winners change, with a jump, within a far smaller change of the image than
    an attack makes. No differentiable stand-in is known to be better; what breaks such networks are differences of
    the logits over changes of the size of the attack (score-based attacks and smoothed gradients: Tramer et al. 2020,
    section 5), and a search that keeps its best point. An audit of this layer must not rely on gradients alone.

    Raises `CasemateError` for a ratio outside (0, 1].
    """

    surrogate = None
    stochastic = False

    def __init__(self, ratio: float = 0.1) -> None:
        super().__init__()
        if not 0 < ratio <= 1:
            raise CasemateError(f"the ratio of winners is in (0, 1], not {ratio}")
        self.ratio = ratio

    def forward(self, values: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        flat = values.detach().flatten(1)
        k = max(1, int(self.ratio * flat.shape[1]))
        least = flat.topk(k, dim=1, sorted=False).values.amin(dim=1)
        # Compared in the shape they came in, which keeps their memory format.
        return torch.where(values >= least.view(-1, *[1] * (values.ndim - 1)), values, 0)

    def extra_repr(self) -> str:
        return f"ratio={self.ratio:g}"


def with_k_winners(network: nn.Module, ratio: float = 0.1) -> nn.Module:
    """A copy of `network` with `KWinners(ratio)` in the place of every `nn.ReLU`; it is to be trained before use.

    Weights keep their names. Raises `CasemateError` where the network has no `nn.ReLU` among its modules.
    """
    return replaced(network, nn.ReLU, lambda activation, place: KWinners(ratio))
