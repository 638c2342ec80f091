"""PixelDefend (Song et al., ICLR 2018, arXiv:1710.10766): an image is moved to where a model of images expects it."""

import copy

import torch
from torch import nn

from casemate.classifier import Images
from casemate.defences.pixel_model import N_LEVELS, PixelModel
from casemate.errors import CasemateError


class PixelDefend(nn.Module):
    """Each pixel in raster order becomes the likeliest value within `eps` of its own, given those purified before it.

    Algorithm 1 of the paper, greedy decoding, with its `eps` of 16/255 for CIFAR-10 (in pixel units, inclusive), and a
    `model` that two cores can train in the place of a PixelCNN++. The answer is a byte value of at most `eps` from the
    image, so `eps` must be at least 1/510 for there to be one. The surrogate is the identity (Athalye et al. 2018,
    section 5.4.1): differentiated, the loop over all pixels has a vanishing gradient.

    Images [N, 1, H, W] in [0, 1] to the same. Computed in float64, so that which of two values is likelier does not
    depend on the batch. Cost: one evaluation of the model a pixel, in about W + 6 H passes at a reach of 5, for pixels
    that do not wait for each other go together. Raises `CasemateError` for an `eps` outside [1/510, 1].
    """

    stochastic = False

    def __init__(self, model: PixelModel, eps: float = 16 / 255) -> None:
        super().__init__()
        if not 0.5 / (N_LEVELS - 1) <= eps <= 1:
            raise CasemateError(f"eps must be from 1/510, where a byte value is always near, to 1, not {eps}")
        self.model = model
        self.eps = eps

    @torch.no_grad()
    def forward(self, x: Images) -> Images:
        model = copy.deepcopy(self.model).double()
        height, width = x.shape[2:]
        padded = model.padded(x.double())
        image = padded[:, 0, model.reach :, model.reach : model.reach + width]
        neighbourhoods = model.neighbourhoods(padded)
        values = torch.arange(N_LEVELS, dtype=torch.float64, device=x.device) / (N_LEVELS - 1)
        # A pixel waits for `reach` columns of the row above it, and no longer.
        lag = model.reach + 1
        rows = torch.arange(height, device=x.device)
        for time in range(width + lag * (height - 1)):
            columns = time - lag * rows
            on = (columns >= 0) & (columns < width)
            row, column = rows[on], columns[on]
            here = image[:, row, column]
            likely = model.at(neighbourhoods[:, row, column])
            near = (values - here[..., None]).abs() <= self.eps + 1e-9
            image[:, row, column] = values[torch.where(near, likely, -torch.inf).argmax(dim=-1)]
        return image[:, None].to(x.dtype)

    def surrogate(self, x: Images) -> Images:
        return x

    def extra_repr(self) -> str:
        return f"eps={self.eps:g}"
