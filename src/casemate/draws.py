"""How many random draws a mean gradient needs before it points somewhere (EOT, Athalye et al. 2018, section 4.2)."""

from collections.abc import Callable

import torch

from casemate.threat import Images

# The paper's attacks use 10 to 30.
MOST_DRAWS = 64
AGREEMENT = 0.9


def enough_draws(gradient: Callable[[int], Images]) -> int:
    """The least power of two of which two independent means agree, at most 64.

    `gradient` gives those of one draw [N, C, H, W], other ones for another number. The means agree where their cosine
    is at least 0.9 for half the images; for an image without a gradient it counts as 0.
    """
    n_draws = 1
    means = [gradient(0), gradient(1)]
    while n_draws < MOST_DRAWS and not _agree(*means):
        for draw in range(2 * n_draws, 4 * n_draws):
            means[draw % 2] = means[draw % 2] + gradient(draw)
        n_draws *= 2
    return n_draws


def _agree(first: Images, second: Images) -> bool:
    """Of sums as well as of means."""
    # Divided by the largest entry first, so that the squares of tiny gradients do not underflow.
    first, second = (
        flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) for flat in (first.flatten(1), second.flatten(1))
    )
    return bool((torch.cosine_similarity(first, second) >= AGREEMENT).double().mean() >= 0.5)
