"""Adam (Kingma & Ba 2015, algorithm 1) for a batch of images, of which any number may have left."""

import torch

from casemate.attacks.nearest import Index
from casemate.threat import Images

# Its own defaults, which the attacks keep.
MEAN_DECAY, SQUARE_DECAY, SMALLEST = 0.9, 0.999, 1e-8


class Adam:
    """The moments of each image; those that are still moved are moved in every step."""

    def __init__(self, images: Images) -> None:
        self._mean, self._square = torch.zeros_like(images), torch.zeros_like(images)
        self._n_steps = 0

    def direction(self, gradient: Images, at: Index) -> Images:
        """What the learning rate multiplies, for new gradients [n, C, H, W] of the images `at`."""
        self._n_steps += 1
        mean = self._mean[at].lerp_(gradient, 1 - MEAN_DECAY)
        square = self._square[at].mul_(SQUARE_DECAY).addcmul_(gradient, gradient, value=1 - SQUARE_DECAY)
        self._mean[at], self._square[at] = mean, square
        mean, square = mean / (1 - MEAN_DECAY**self._n_steps), square / (1 - SQUARE_DECAY**self._n_steps)
        return mean / (square.sqrt_() + SMALLEST)
