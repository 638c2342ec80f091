"""Defense-GAN (Samangouei, Kabkab and Chellappa, ICLR 2018, arXiv:1805.06605): the nearest image a generator makes."""

import torch
from torch import nn

from casemate import rng
from casemate.classifier import Images
from casemate.defences.generator import Generator
from casemate.errors import CasemateError
from casemate.sizes import at_least


class DefenseGAN(nn.Module):
    """G(z*) with z* the best of `n_restarts` searches of `n_steps` steps for the least |G(z) - x|^2 (section 4.1).

    The paper's 10 restarts from standard normal vectors and 200 steps; the steps are Adam's, of size `lr` on each
    coordinate, in the place of plain descent, whose step size hangs on the generator. The layer takes gradients of its
    own while it answers, and its surrogate is the identity: the search differentiated has a vanishing gradient, and the
    projection is near its image (Athalye et al. 2018, section 5.4.2). Stochastic, for the starts are drawn.

    Images [N, C, H, W] of the generator's shape, in [0, 1], to the same. Cost: n_restarts n_steps gradients of the
    generator for each image. Raises `CasemateError` where a number is no whole number of at least 1, `lr` is not
    positive, or the images have another shape.
    """

    stochastic = True

    def __init__(self, generator: Generator, *, n_restarts: int = 10, n_steps: int = 200, lr: float = 0.1) -> None:
        super().__init__()
        at_least(1, n_restarts=n_restarts, n_steps=n_steps)
        if not lr > 0:
            raise CasemateError(f"the step size of the projection must be positive, not {lr}")
        self.generator = generator
        self.n_restarts, self.n_steps, self.lr = n_restarts, n_steps, lr

    def forward(self, x: Images) -> Images:
        if tuple(x.shape[1:]) != self.generator.image_shape:
            raise CasemateError(f"the generator makes images {list(self.generator.image_shape)}, not {[*x.shape[1:]]}")
        start = rng.normal(rng.layer_keys(x, "defense-gan"), (self.n_restarts, self.generator.n_latent))
        z = start.to(x.dtype).flatten(0, 1).requires_grad_(True)
        wanted = x.detach().repeat_interleave(self.n_restarts, dim=0)
        optimiser = torch.optim.Adam([z], lr=self.lr)
        with torch.enable_grad():
            for _ in range(self.n_steps):
                # Summed, so that no search hangs on another; the gradient of z alone, so that no weight gets one.
                (z.grad,) = torch.autograd.grad((self.generator(z) - wanted).square().sum(), z)
                optimiser.step()
        with torch.no_grad():
            made = self.generator(z)
            distance = (made - wanted).square().flatten(1).sum(dim=1).view(len(x), self.n_restarts)
            best = made.view(len(x), self.n_restarts, *x.shape[1:])
            return best[torch.arange(len(x), device=x.device), distance.argmin(dim=1)]

    def surrogate(self, x: Images) -> Images:
        return x

    def extra_repr(self) -> str:
        return f"n_restarts={self.n_restarts}, n_steps={self.n_steps}, lr={self.lr:g}"
