"""A small generator and its adversarial training against a critic (Gulrajani et al. 2017, arXiv:1704.00028)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from casemate.classifier import Images
from casemate.errors import CasemateError
from casemate.sizes import at_least

Latent = Float[Tensor, "batch latent"]

# Weight of the gradient penalty and steps of the critic for each of the generator, as in the paper.
PENALTY = 10.0
N_CRITIC = 5


class Generator(nn.Module):
    """Latent vectors [N, n_latent] to images [N, C, H, W] in [0, 1], by two hidden layers of `width` units.

    A perceptron, since a projection asks it thousands of times for each image: a tenth of the work of a small
    convolutional one. Raises `CasemateError` where a number is no whole number of at least 1.
    """

    def __init__(self, image_shape: Sequence[int], n_latent: int = 64, width: int = 256) -> None:
        super().__init__()
        at_least(1, n_latent=n_latent, width=width)
        self.image_shape = tuple(image_shape)
        self.n_latent = n_latent
        self.layers = nn.Sequential(
            nn.Linear(n_latent, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, math.prod(image_shape)), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, z: Latent) -> Images:
        return self.layers(z).view(-1, *self.image_shape)


def fit_generator(
    images: Images,
    *,
    n_latent: int = 64,
    width: int = 256,
    n_steps: int = 4000,
    batch_size: int = 64,
    lr: float = 2e-4,
    seed: int = 0,
) -> Generator:
    """A `Generator` of images [N, C, H, W] in [0, 1] by WGAN-GP: Adam at `lr` falling to 0, betas 0.5 and 0.9.

    `n_steps` are those of the generator, each after 5 of the critic. The global random state is left as it was. Raises
    `CasemateError` where there are no images.
    """
    at_least(1, n_steps=n_steps, batch_size=batch_size)
    if not len(images):
        raise CasemateError("the generator needs at least one image to learn from")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(images.shape[1:], n_latent, width).to(images.device)
        critic = nn.Sequential(
            nn.Flatten(), nn.Linear(images[0].numel(), 2 * width), nn.LeakyReLU(0.2),
            nn.Linear(2 * width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1),
        ).to(images.device)  # fmt: skip
        optimisers = [torch.optim.Adam(part.parameters(), lr=lr, betas=(0.5, 0.9)) for part in (critic, generator)]

        def generated() -> Images:
            return generator(torch.randn(batch_size, n_latent, device=images.device))

        for step in range(n_steps):
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = lr * (1 - step / n_steps)
            for _ in range(N_CRITIC):
                real = images[torch.randint(len(images), (batch_size,)).to(images.device)]
                fake = generated().detach()
                loss = (critic(fake) - critic(real)).mean() + PENALTY * _steepness(critic, real, fake)
                _descend(optimisers[0], loss)
            _descend(optimisers[1], -critic(generated()).mean())
    return generator.eval().requires_grad_(False)


def _steepness(critic: nn.Module, real: Images, fake: Images) -> Float[Tensor, ""]:
    """The mean of (|gradient| - 1)^2 at random points between real and generated images."""
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = real.lerp(fake, share).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
