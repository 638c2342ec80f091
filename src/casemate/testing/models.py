"""Small classifiers with known properties for the conformance suites; their weights are the same in every process."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from casemate import rng
from casemate.threat import L1, L2, Images, Linf

Shape = Sequence[int]
N_CLASSES = 4


class Linear(nn.Module):
    """Four classes. The margin loss of class 0 is scale (w (x - 1/2) - bias); classes 2 and 3 are never in play.

    On images of class 0 an attack breaks exactly those whose distance to the plane w (x - 1/2) = bias, inside the box,
    is below eps. The last two logits are there for losses that need three or four classes.
    """

    weight: Tensor

    def __init__(self, image_shape: Shape, *, bias: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        key = rng.image_keys(0, torch.tensor([0]))
        # Weights of different sizes and both signs, none of them near zero.
        size = 0.5 + rng.uniform(rng.fold(key, "size"), image_shape)[0]
        sign = 1 - 2 * (rng.uniform(rng.fold(key, "sign"), image_shape)[0] < 0.5).float()
        self.register_buffer("weight", size * sign)
        self.bias, self.scale = bias, scale

    def forward(self, x: Tensor) -> Tensor:
        ahead = self.scale * (((x - 0.5) * self.weight).flatten(1).sum(dim=1) - self.bias)
        never = torch.full_like(ahead, -20.0)
        return torch.stack([-ahead / 2, ahead / 2, never, never - 1], dim=1)

    def gain(self, x: Images, threat: Linf | L2 | L1) -> Float64[Tensor, "batch"]:
        """The most by which w x grows over the threat model around each image, in closed form."""
        weight = self.weight.double().flatten()
        room = torch.where(weight > 0, 1 - x.flatten(1).double(), x.flatten(1).double())
        if isinstance(threat, Linf):
            change = room.clamp(max=threat.eps)
        elif isinstance(threat, L2):
            change = _l2_change(weight.abs(), room, threat.eps)
        else:
            # The budget goes to the largest weights first, each filled up to the box.
            order = weight.abs().argsort(descending=True)
            spent = nn.functional.pad(room[:, order].cumsum(dim=1).clamp(max=threat.eps), (1, 0)).diff(dim=1)
            change = torch.zeros_like(room).index_copy_(1, order, spent)
        return change @ weight.abs()


class Rippled(nn.Module):
    """A smooth convolutional network with sine activations: an ascent with steps of ordinary size overshoots.

    `ahead` is added to the logit of class 0; 20 is beyond what an attack of ordinary size makes up for.
    """

    def __init__(self, image_shape: Shape, *, ahead: float = 0.0) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.first = nn.Conv2d(channels, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 4, 3, padding=1, stride=2)
        self.last = nn.Linear(4 * -(-height // 2) * -(-width // 2), N_CLASSES)
        with torch.no_grad():
            self.last.bias[0] += ahead / 4

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.sin(8 * self.second(torch.sin(20 * self.first(x - 0.5))))
        return 4 * self.last(hidden.flatten(1))


class Residual(nn.Module):
    """x - relu(conv(x)): what the two branches share, intervals forget."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x - torch.relu(self.inner(x))


class Modal(nn.Module):
    """Batch normalisation and dropout: another function in training mode, where a forward pass also writes buffers."""

    def __init__(self, image_shape: Shape) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.body = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.last = nn.Linear(4 * height * width, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return 4 * self.last(self.body(x - 0.5).flatten(1))


class Noisy(nn.Module):
    """Gaussian noise on the image, drawn as a randomised defence must draw it."""

    stochastic = True

    def __init__(self, sigma: float = 0.05) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sigma * rng.normal(rng.layer_keys(x, "noisy"), x.shape[1:])


class Recorded(nn.Module):
    """A classifier that remembers the float32 images it was asked about; copies of it write into the same record."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            self.seen.append(x.detach().clone())
        return self.model(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Recorded":
        other = Recorded(copy.deepcopy(self.model, memo))
        other.seen = self.seen
        return other


class NotFinite(nn.Module):
    """NaN whatever it is given."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits * torch.nan


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """`build()` in eval mode with weights drawn from `seed`; the global random state is put back."""
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        return build().eval()
    finally:
        torch.set_rng_state(state)


def rectified(image_shape: Shape, *, residual: bool = False) -> nn.Module:
    """A small convolutional ReLU network, with or without a residual block."""
    channels, height, width = image_shape

    def build() -> nn.Module:
        middle: list[nn.Module] = [Residual(3), nn.ReLU()] if residual else []
        return nn.Sequential(
            nn.Conv2d(channels, 3, 3, stride=2, padding=1),
            nn.ReLU(),
            *middle,
            nn.Flatten(),
            nn.Linear(3 * -(-height // 2) * -(-width // 2), 8),
            nn.ReLU(),
            nn.Linear(8, N_CLASSES),
        )

    return seeded(build)


def images(n: int, image_shape: Shape, *, seed: int = 0) -> Images:
    """`n` images with values uniform in [0, 1]."""
    return rng.uniform(rng.image_keys(seed, torch.arange(n)), image_shape)


def _l2_change(
    size: Float64[Tensor, "values"], room: Float64[Tensor, "batch values"], eps: float
) -> Float64[Tensor, "batch values"]:
    """min(t size, room) with the largest t at which its norm is at most eps, by bisection."""
    low = torch.zeros_like(room[:, :1])
    high = low + float((room.amax(dim=1) / size.min()).max())
    for _ in range(100):
        t = (low + high) / 2
        fits = torch.minimum(t * size, room).norm(dim=1, keepdim=True) <= eps
        low, high = torch.where(fits, t, low), torch.where(fits, high, t)
    return torch.minimum(low * size, room)
