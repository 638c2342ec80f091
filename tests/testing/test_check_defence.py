"""The suite for defences passes honest ones and catches every planted fault by name."""

import pytest
import torch
from torch import Tensor, nn

from casemate import rng
from casemate.testing import ConformanceError, check_defence


class Levels(nn.Module):
    """Rounds to 8 levels; its stand-in is the identity."""

    stochastic = False

    def forward(self, x: Tensor) -> Tensor:
        return (x * 7).round() / 7

    def surrogate(self, x: Tensor) -> Tensor:
        return x


class Jitter(nn.Module):
    """Noise from the keys, clipped to the box."""

    surrogate = None
    stochastic = True

    def forward(self, x: Tensor) -> Tensor:
        return (x + 0.1 * rng.normal(rng.layer_keys(x, "jitter"), x.shape[1:])).clamp(0, 1)


class Blur(nn.Module):
    """Smooth and without a surrogate."""

    surrogate = None
    stochastic = False

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 3, stride=1, padding=1)


@pytest.mark.parametrize("defence", [Levels(), Jitter(), Blur()], ids=lambda defence: type(defence).__name__)
@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 8, 9)])
def test_honest_defences_conform(defence: nn.Module, image_shape: tuple[int, ...]) -> None:
    check_defence(defence, image_shape=image_shape)


class Border(nn.Module):
    """Adds a black border, so what it hands on is larger."""

    surrogate = None
    stochastic = False

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (1, 1, 2, 2))


def test_a_defence_may_hand_on_images_of_another_shape_that_is_named() -> None:
    check_defence(Border(), image_shape=(3, 8, 9), output_shape=(3, 12, 11))
    for other in ((3, 8, 9), (3, 11, 12), None):
        with pytest.raises(ConformanceError, match=r"returned shape \[8, 3, 12, 11\]"):
            check_defence(Border(), image_shape=(3, 8, 9), output_shape=other)


class _SmallSurrogate(Border):
    def surrogate(self, x: Tensor) -> Tensor:
        return x


def test_the_surrogate_of_such_a_defence_must_have_its_shape() -> None:
    with pytest.raises(ConformanceError, match=r"surrogate of _SmallSurrogate returned \[8, 3, 8, 9\]"):
        check_defence(_SmallSurrogate(), image_shape=(3, 8, 9), output_shape=(3, 12, 11))


class _Undeclared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class _Maybe(Blur):
    stochastic = 1


class _NoSurrogate(Levels):
    surrogate = None


class _Detached(Levels):
    surrogate = None

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class _WrongSurrogate(Levels):
    def surrogate(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class _FlatSurrogate(Levels):
    def surrogate(self, x: Tensor) -> Tensor:
        return x.detach()


class _TextSurrogate(Levels):
    surrogate = "identity"


class _LeavesBox(Blur):
    def forward(self, x: Tensor) -> Tensor:
        return 1.1 * x


class _Crops(Blur):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 1:]


class _Double(Blur):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


class _WholeBatch(Blur):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.amax() if len(x) else x


class _HiddenNoise(Blur):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 0.1 * torch.randn_like(x)).clamp(0, 1)


class _KeyedButUndeclared(Jitter):
    stochastic = False


class _GlobalNoise(Jitter):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 0.1 * torch.randn_like(x)).clamp(0, 1)


class _SharedDraw(Jitter):
    def forward(self, x: Tensor) -> Tensor:
        if not len(x):
            return x
        return (x + 0.1 * rng.normal(rng.layer_keys(x, "shared")[:1], x.shape[1:])).clamp(0, 1)


class _NotRandom(Blur):
    stochastic = True


class _Writes(Blur):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(0.9)


class _Counts(Blur):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


FAULTS: list[tuple[type[nn.Module], str]] = [
    (_Undeclared, "does not declare surrogate"),
    (_Maybe, "stochastic must be True or False"),
    (_NoSurrogate, "zero or not finite: declare a surrogate"),
    (_Detached, "no gradient with respect to its images: declare a surrogate"),
    (_WrongSurrogate, "surrogate of _WrongSurrogate returned"),
    (_FlatSurrogate, "not differentiable"),
    (_TextSurrogate, "callable or None"),
    (_LeavesBox, r"outside \[0, 1\]"),
    (_Crops, "returned shape"),
    (_Double, "torch.float64"),
    (_WholeBatch, "the batch it is in"),
    (_HiddenNoise, "global random state"),
    (_KeyedButUndeclared, "not declared stochastic"),
    (_GlobalNoise, "global random state"),
    (_SharedDraw, "the batch it is in"),
    (_NotRandom, "the same answer for other keys"),
    (_Writes, "wrote into x"),
    (_Counts, "changed the weights or buffers"),
]


@pytest.mark.parametrize(("defence", "sentence"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_every_planted_fault_is_caught_and_named(defence: type[nn.Module], sentence: str) -> None:
    with pytest.raises(ConformanceError, match=sentence):
        check_defence(defence(), image_shape=(1, 6, 6))
