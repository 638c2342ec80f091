"""Learned surrogates: a small network taught to answer as a layer does, for its gradient (BPDA)."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from casemate import rng
from casemate.classifier import Images
from casemate.errors import CasemateError
from casemate.sizes import at_least

Shape = Sequence[int]
Pairs = Callable[[rng.Keys], tuple[list[Tensor], list[Tensor]]]

# Beyond that many weights a network is no small one to learn from some thousand answers.
MAX_WEIGHTS = 2**22
N_STEPS, BATCH_SIZE, PEAK_RATE = 300, 64, 4e-3
# What image maps are strided down to before a linear layer, and the channels of the first of their convolutions.
SMALL, WIDTH = 8, 16
SMALLEST = torch.finfo(torch.float32).tiny


class LearnedSurrogate(nn.Module):
    """A layer, with the network `taught` to answer as it does for its surrogate.

    What Athalye et al. 2018 (arXiv:1802.00420, section 4.1) leave open, g near f, where nobody has written a g by hand.
    The answers are the layer's own, and random ones where `stochastic` says so.
    """

    def __init__(self, layer: nn.Module, taught: nn.Module) -> None:
        super().__init__()
        self.layer, self.taught = layer, taught
        self.stochastic = any(getattr(module, "stochastic", False) for module in layer.modules())

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layer(x)
        return answer

    def surrogate(self, x: Tensor) -> Tensor:
        answer: Tensor = self.taught(x)
        return answer


def learned_surrogate(layer: nn.Module, x: Images, radius: float, *, seed: int = 0) -> LearnedSurrogate:
    """`layer` with a surrogate learnt from its answers to the images x [n, C, H, W] in [0, 1], moved by up to `radius`.

    Takes seconds: `N_STEPS` batches of `BATCH_SIZE` images go through the layer. Raises `CasemateError` where there are
    no images or where the answers are of a shape that `Imitation` has no network for.
    """
    at_least(1, images=len(x))
    keys = rng.image_keys(seed, torch.arange(BATCH_SIZE, device=x.device))
    with torch.no_grad(), rng.drawing_from(keys[:1]):
        taught = Imitation(x.shape[1:], layer(x[:1].clone()).shape[1:], seed).to(x)

    def answered(keys: rng.Keys) -> tuple[list[Tensor], list[Tensor]]:
        moved = near(x, radius, keys)
        with rng.drawing_from(keys):
            return [moved], [layer(moved.clone())]

    fit([taught], answered, keys)
    return LearnedSurrogate(layer, taught)


class Imitation(nn.Module):
    """A small network, its weights drawn from `seed`, from values of one shape to another, both without the batch.

    Maps [C, H, W] to maps of as many pixels, or of a whole fraction, by three convolutions, beside the identity where
    the shapes agree; maps to anything else by strided convolutions and two linear layers; vectors by two linear layers.
    Raises `CasemateError` where that takes more than `MAX_WEIGHTS` weights.
    """

    scale: Tensor

    def __init__(self, shape_in: Shape, shape_out: Shape, seed: int = 0) -> None:
        super().__init__()
        self.shape_in, self.shape_out = tuple(shape_in), tuple(shape_out)
        self.is_beyond_identity = self.shape_in == self.shape_out and len(self.shape_in) == 3
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = _layers(list(shape_in), list(shape_out))
        self.register_buffer("scale", torch.ones(()))
        if sum(weight.numel() for weight in self.parameters()) > MAX_WEIGHTS:
            raise CasemateError(f"no small network leads from values {list(shape_in)} to values {list(shape_out)}")

    def forward(self, x: Float[Tensor, "batch *in"]) -> Float[Tensor, "batch *out"]:
        answer: Tensor = self.scale * self.layers(x)
        return x + answer if self.is_beyond_identity else answer


def near(x: Images, radius: float, keys: rng.Keys) -> Images:
    """An image for each key: one of x, or a mixture of two, moved by up to `radius` and clipped to [0, 1].

    Half of them move by the same amount everywhere, up or down, as attacks in linf do, and half anyhow.
    """
    first, second, share, kind, size = rng.uniform(keys, (5,)).to(x).unbind(dim=1)
    pick = [(draw * len(x)).long() for draw in (first, second)]
    share, kind, size = (draw.view(-1, *[1] * (x.ndim - 1)) for draw in (share.square() / 2, kind, size))
    mixed = x[pick[0]] + share * (x[pick[1]] - x[pick[0]])
    moves = 2 * rng.uniform(rng.fold(keys, "moves"), x.shape[1:]).to(x) - 1
    moves = torch.where(kind < 0.5, moves.sign(), moves)
    return (mixed + radius * size * moves).clamp(0, 1)


def fit(students: Sequence[Imitation], answered: Pairs, keys: rng.Keys) -> None:
    """Teach each student by least squares, in the units of what it is to answer; all in eval mode afterwards.

    `answered` gives, for new ones of the keys at every step, what each student is asked and what it should answer.
    Adam with a rate that rises and falls.
    """
    optimiser = torch.optim.Adam([weight for student in students for weight in student.parameters()])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, N_STEPS)
    for step in range(N_STEPS):
        with torch.no_grad():
            asked, answers = answered(rng.fold(keys, "learned", step))
            if step == 0:
                for student, question, answer in zip(students, asked, answers, strict=True):
                    student.scale.copy_((answer - question if student.is_beyond_identity else answer).float().std())
        with torch.enable_grad():
            loss = sum(
                ((student(question) - answer) / student.scale.clamp(min=SMALLEST)).square().mean()
                for student, question, answer in zip(students, asked, answers, strict=True)
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    for student in students:
        student.eval().requires_grad_(False)


def _layers(shape_in: list[int], shape_out: list[int]) -> nn.Sequential:
    n_out = torch.Size(shape_out).numel()
    shaped: list[nn.Module] = [] if len(shape_out) == 1 else [nn.Unflatten(1, shape_out)]
    if len(shape_in) != 3:
        hidden = [nn.Linear(torch.Size(shape_in).numel(), 256), nn.ReLU(), nn.Linear(256, n_out)]
        return nn.Sequential(nn.Flatten(), *hidden, *shaped)
    channels, height, width = shape_in
    if len(shape_out) == 3:
        stride = max(1, height // max(1, shape_out[1]))
        if [height, width] == [stride * size for size in shape_out[1:]]:
            return _convolutions(channels, shape_out[0], stride)
    layers: list[nn.Module] = []
    n_filters = WIDTH
    while min(height, width) > SMALL or not layers:
        layers += [nn.Conv2d(channels, n_filters, 4, stride=2, padding=1), nn.ReLU()]
        channels, height, width, n_filters = n_filters, height // 2, width // 2, min(2 * n_filters, 4 * WIDTH)
    n_values = channels * height * width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(n_values, 100), nn.ReLU(), nn.Linear(100, n_out), *shaped)


def _convolutions(channels: int, n_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(WIDTH, n_out, stride, stride),
    )
