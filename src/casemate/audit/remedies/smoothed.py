"""The remedy for a landscape that is noise to a step (G9): gradients averaged over points nearby."""

from torch import Tensor, nn

from casemate import rng
from casemate.losses import Logits
from casemate.threat import Images


class Smoothed(nn.Module):
    """A classifier shown its images with Gaussian noise of standard deviation `sigma`, in the units of pixel values.

    As a stand-in its gradient is a mean over draws: that of the loss averaged over the noise (Athalye et al. 2018,
    section 4.2; Pintor et al. 2022, remedy M3).
    """

    stochastic = True

    def __init__(self, model: nn.Module, sigma: float) -> None:
        super().__init__()
        self.model, self.sigma = model, sigma

    def forward(self, x: Images) -> Logits:
        noise = rng.normal(rng.layer_keys(x, "smoothed"), x.shape[1:]).to(x)
        # Clipped, for a classifier is defined on images; the gradient goes past the clipping.
        noisy = (x.detach() + self.sigma * noise).clamp(0, 1)
        answer: Tensor = self.model(noisy + (x - x.detach()))
        return answer
