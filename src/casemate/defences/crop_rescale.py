"""Random cropping and rescaling: the network sees a part of each image, as large as the whole."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from casemate import rng
from casemate.classifier import Images
from casemate.defences.bilinear import interpolate
from casemate.errors import CasemateError
from casemate.losses import Logits
from casemate.sizes import at_least


class CropRescale(nn.Module):
    """Cuts a random part out of each image and enlarges it to the size of the image, bilinearly.

    Guo et al. 2018 (arXiv:1711.00117), section 4.1: crops of 90x90 from images of 224x224. Here height and width of the
    crop are `fraction` of those of the image, rounded: 13 of 32 and 11 of 28 by default; every place is equally likely.
    This is one draw; `CropEnsemble` is the defence as published.

    Images [N, C, H, W] in [0, 1] to the same. The layer is differentiable and needs no surrogate; Athalye et al. 2018
    (arXiv:1802.00420, section 5.2.2) broke it by averaging over draws. Raises `CasemateError` unless `fraction` is
    above 0 and below 1.
    """

    surrogate = None
    stochastic = True

    def __init__(self, fraction: float = 90 / 224) -> None:
        super().__init__()
        if not 0 < fraction < 1:
            raise CasemateError(f"a crop is a part of the image: fraction is above 0 and below 1, not {fraction}")
        self.fraction = fraction

    def forward(self, x: Images) -> Images:
        top, left = rng.uniform(rng.layer_keys(x, "crop-rescale"), (2,)).unbind(dim=1)
        return interpolate(x, self._within(top, x.shape[2]), self._within(left, x.shape[3]))

    def _within(self, start: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch side"]:
        """Where each line of the output lies in an image of `side` lines, never outside the crop."""
        cropped = max(1, round(side * self.fraction))
        line = (torch.arange(side, device=start.device) + 0.5) * (cropped / side) - 0.5
        return (start * (side - cropped + 1)).floor()[:, None] + line.clamp(0, cropped - 1)

    def extra_repr(self) -> str:
        return f"fraction={self.fraction:g}"


class CropEnsemble(nn.Module):
    """A classifier that averages the probabilities of `classifier` over `n_crops` random crops of each image.

    Guo et al. 2018 (arXiv:1711.00117), section 4.1, with their 30 crops. Images [N, C, H, W] in [0, 1] to logits
    [N, classes]: the logarithm of the mean probabilities, whose softmax they are. Random all the same, so attacks
    average over ensembles. Cost: `n_crops` passes of `classifier` for one. Raises `CasemateError` where `n_crops` is no
    whole number of at least 1, and as `CropRescale` does.
    """

    surrogate = None
    stochastic = True

    def __init__(self, classifier: nn.Module, n_crops: int = 30, *, fraction: float = 90 / 224) -> None:
        super().__init__()
        at_least(1, n_crops=n_crops)
        self.n_crops = n_crops
        self.crop = CropRescale(fraction)
        self.classifier = classifier

    def forward(self, x: Images) -> Logits:
        keys = rng.layer_keys(x, "crop-ensemble")
        answers = []
        for draw in range(self.n_crops):
            with rng.drawing_from(rng.fold(keys, draw)):
                answers.append(self.classifier(self.crop(x)).float().log_softmax(dim=1))
        return torch.stack(answers).logsumexp(dim=0) - math.log(self.n_crops)

    def extra_repr(self) -> str:
        return f"n_crops={self.n_crops}"
