"""A small autoregressive model of grey images: each pixel given those above it and to its left."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from casemate.classifier import Images
from casemate.errors import CasemateError
from casemate.sizes import at_least

# What a pixel value can be: bytes.
N_LEVELS = 256


class PixelModel(nn.Module):
    """p(pixel | pixels before it in raster order), a categorical distribution over the 256 byte values.

    A PixelCNN (van den Oord et al. 2016, arXiv:1606.05328) in its smallest form: one masked convolution that sees
    `reach` rows above and as many columns to either side, then 1x1 convolutions of `width` channels. It is a stand-in
    for the PixelCNN++ of PixelDefend that two processor cores can train and query. Whether a place is inside of the
    image is an input beside its value. Images [N, 1, H, W] in [0, 1], of any size. Raises `CasemateError` where a
    number is no whole number of at least 1.
    """

    def __init__(self, reach: int = 5, width: int = 64) -> None:
        super().__init__()
        at_least(1, reach=reach, width=width)
        self.reach = reach
        # Rows of the neighbourhood: those above, and the pixel's own as far as it is known.
        self.first = nn.Linear(2 * (reach + 1) * (2 * reach + 1), width)
        self.rest = nn.Sequential(
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, N_LEVELS),
        )
        known = torch.ones(2, reach + 1, 2 * reach + 1)
        known[:, -1, reach:] = 0
        self.register_buffer("known", known.flatten(), persistent=False)

    known: Tensor

    def forward(self, x: Images) -> Float[Tensor, "batch height width levels"]:
        """The log-probabilities, up to a constant for each pixel, of the 256 values of every pixel."""
        return self.at(self.neighbourhoods(self.padded(x)))

    def padded(self, x: Images) -> Float[Tensor, "batch 2 taller wider"]:
        """The image and where it is, with black around it for the neighbourhoods of pixels at the border."""
        if x.shape[1] != 1:
            raise CasemateError(f"the pixel model knows grey images of 1 channel, not of {x.shape[1]}")
        both = torch.cat([x, torch.ones_like(x)], dim=1)
        return nn.functional.pad(both, (self.reach, self.reach, self.reach, 0))

    def neighbourhoods(
        self, padded: Float[Tensor, "batch 2 taller wider"]
    ) -> Float[Tensor, "batch height width 2 rows columns"]:
        """A view: what is written into `padded` shows in it."""
        windows = padded.unfold(2, self.reach + 1, 1).unfold(3, 2 * self.reach + 1, 1)
        return windows.permute(0, 2, 3, 1, 4, 5)

    def at(self, neighbourhoods: Float[Tensor, "... 2 rows columns"]) -> Float[Tensor, "... levels"]:
        """As `forward`, for neighbourhoods of some pixels."""
        return self.rest(self.first(neighbourhoods.flatten(-3) * self.known))

    def log_likelihood(self, x: Images) -> Float[Tensor, "batch"]:
        """log p of each image rounded to bytes, in nats."""
        picked = self(x).log_softmax(dim=-1).gather(-1, levels(x)[:, 0, :, :, None])
        return picked.flatten(1).sum(dim=1)


def levels(x: Images) -> Int64[Tensor, "batch channel height width"]:
    """The nearest byte value of each pixel."""
    return (x * (N_LEVELS - 1)).round().long()


def fit_pixel_model(
    images: Images, *, reach: int = 5, width: int = 64, n_steps: int = 1500, batch_size: int = 32, seed: int = 0
) -> PixelModel:
    """A `PixelModel` of images [N, 1, H, W] in [0, 1], by maximum likelihood: Adam, cosine schedule from 0.003.

    The global random state is left as it was. Raises `CasemateError` where there are no images or they are not grey.
    """
    at_least(1, n_steps=n_steps, batch_size=batch_size)
    if not len(images):
        raise CasemateError("the pixel model needs at least one image to learn from")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PixelModel(reach, width).to(images.device)
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
        for _ in range(n_steps):
            x = images[torch.randint(len(images), (batch_size,)).to(images.device)]
            loss = -model.log_likelihood(x).mean() / x[0].numel()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval().requires_grad_(False)
