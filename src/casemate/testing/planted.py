"""Planted faults: defences that hide a classifier's gradient and do not say so, and attacks that do no work.

An audit is only worth something if it catches what is known to be wrong. Each planted defence turns any classifier
into one that is no more robust and looks it; its modules declare no surrogate and no randomness, so that whoever is
handed the result has model(x) to go by and nothing else. The classifier it was made from is its twin, whose attacked
accuracy is also the planted one's: exactly, or as closely as `moves` and the builder say.

`trips` names the checks that a sound audit must fail it on, for a twin that an ordinary attack breaks:

- G1 one step beats many; G2 black-box beats white-box; G3 an unbounded attack leaves images standing; G4 random points
  succeed where gradients fail; G5 more distortion brings no more success; G6 more steps still bring more; G7 gradient
  absent, zero or saturated; G8 gradient differs from finite differences; G9 rough landscape; G10 undeclared randomness;
  G11 gradients computed inside the forward pass; G12 probabilities in the place of logits; G13 the attack never ran;
  G14 it broke its constraints (after Athalye et al. 2018, Carlini et al. 2019 and the warnings of AutoAttack);
- I1 unavailable gradients, I2 unstable predictions, I3 silent success, I4 incomplete optimisation, I5 transfer
  failure, I6 unconstrained failure (Pintor et al. 2022);
- BIN, the binarisation test of the attack (Zimmermann et al. 2022).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from casemate import rng
from casemate.attacks import PGD, Attack, maximise
from casemate.defences import ActivationPruning, Thermometer, with_activation_pruning
from casemate.defences.activations import replaced
from casemate.gradients import Classifier, engine_for
from casemate.losses import Labels, cross_entropy
from casemate.threat import Images, Threat

# Adjacent cells of pixel values that `jump` keeps and mirrors; a power of two, so that it is exact in float32.
N_CELLS = 128


@dataclass(frozen=True)
class PlantedDefence:
    """Called with a classifier, returns a planted copy of it in eval mode; the classifier itself is left as it is.

    `remedy` is what an attack needs to see through it. `moves` is the largest change of a pixel value, in linf on
    images in [0, 1], between an image and one at which the twin decides as the planted classifier does for it. With
    0.0 the two decide alike for every image. With another number, whatever breaks the planted one at linf eps gives an
    image that breaks the twin at eps + moves. None means that there is no such bound, because it draws.
    """

    name: str
    plant: Callable[[nn.Module], nn.Module]
    trips: tuple[str, ...]
    remedy: str
    moves: float | None = 0.0

    def __call__(self, classifier: nn.Module) -> nn.Module:
        return self.plant(copy.deepcopy(classifier)).eval()


@dataclass(frozen=True)
class PlantedAttack:
    """An attack with a fault, and the checks that must find it on a classifier which `PGD` breaks.

    `against` is what to plant in that classifier first, where the fault does not show on it as it is.
    """

    name: str
    attack: Attack
    trips: tuple[str, ...]
    against: Callable[[nn.Module], nn.Module] | None = None


def quantised(classifier: nn.Module) -> nn.Module:
    """Pixel values are rounded to 3 bits, the 8 levels k / 7, and rounding has a zero gradient.

    The twin sees an image within half a level, 1/14. Conversely an image of those levels is its own rounding: what
    breaks the twin there breaks the planted one.
    """
    return nn.Sequential(_Rounded(8), classifier)


def scaled_logits(classifier: nn.Module) -> nn.Module:
    """Logits times 100: the softmax saturates in float32, and cross-entropy has a zero gradient; margins have not.

    The order of the logits, and so every decision, is the twin's. It saturates where the twin's margin is above 1.04,
    as that of a trained network is on most images.
    """
    return nn.Sequential(classifier, _Times(100))


def probabilities(classifier: nn.Module) -> nn.Module:
    """The softmax of the logits: what a loss of its own softmax no longer has a gradient for.

    The order is the twin's, save where logits so close as to round to one probability tie.
    """
    return nn.Sequential(classifier, nn.Softmax(dim=1))


def zero_gradient(classifier: nn.Module) -> nn.Module:
    """The identity, whose backward pass says zero. Every answer is the twin's."""
    return nn.Sequential(_BackwardTimes(0.0), classifier)


def flipped_gradient(classifier: nn.Module) -> nn.Module:
    """The identity, whose backward pass turns the sign round: ascent descends. Every answer is the twin's."""
    return nn.Sequential(_BackwardTimes(-1.0), classifier)


def noisy(classifier: nn.Module) -> nn.Module:
    """Gaussian noise of standard deviation 0.1 on every pixel value, from torch's global generator.

    The twin's answer at a point drawn around the image. Noise that nobody chose points nowhere in particular: an image
    that breaks the twin with some margin breaks most draws, and accuracy with and without an attack agrees with
    the twin's as far as the twin withstands such noise on clean images.
    """
    return nn.Sequential(_GaussianNoise(0.1), classifier)


def thermometer(classifier: nn.Module) -> nn.Module:
    """Pixel values become 16 switches each, which have no gradient, and are decoded again as the share that is thrown.

    So that the twin can stand behind the code without training, where a network trained on codes would have no twin: it
    sees an image of the levels k / 16, each value rounded up by less than 1/16. Conversely an image of those levels is
    its own decoding: what breaks the twin there breaks the planted one. The decoding is linear, for it must hide
    nothing by itself.
    """
    n_levels = 16
    return nn.Sequential(_Undeclared(Thermometer(n_levels)), _Decoded(n_levels), classifier)


def pruned(classifier: nn.Module) -> nn.Module:
    """Stochastic activation pruning (SAP-100) after every activation, drawn from torch's global generator.

    What each layer hands on is, in the mean over draws, what the twin's does; the answers scatter around the twin's, so
    accuracies agree as far as the twin withstands pruning on clean images. Raises `CasemateError` where the
    classifier has no activation among its modules.
    """
    return replaced(with_activation_pruning(classifier), ActivationPruning, lambda layer, place: _Undeclared(layer))


def jump(classifier: nn.Module) -> nn.Module:
    """Every other of 128 cells of pixel values is mirrored in itself, with a jump at its ends; neighbours alternate.

    In the place of the jumps of discontinuous activations and of k-winners-take-all, where a twin would have to be
    trained. The gradient is there and true, but half of its signs hold for less than a cell and are wrong beyond it.
    The mirroring is its own inverse and moves a value by less than a cell, 1/128: what breaks the twin at linf eps
    breaks the planted one at eps + 1/128, mirrored, and the other way round.
    """
    return nn.Sequential(_Mirrored(N_CELLS), classifier)


def purified(classifier: nn.Module) -> nn.Module:
    """Three gradient steps inside the forward pass make the image more like the class it is taken for.

    The answer is that for the purified image, which no gradient leads back from. It can undo no attack, for it holds
    on to the twin's decision: where the steps happen to change it, the answer is the twin's own.
    """
    return _Purified(classifier, n_steps=3, step_size=0.01)


PLANTED_DEFENCES: tuple[PlantedDefence, ...] = (
    PlantedDefence("3-bit quantisation", quantised, ("G3", "G4", "G7", "G8", "I1"), "BPDA", moves=1 / 14),
    PlantedDefence("logits times 100", scaled_logits, ("G7",), "the margin loss"),
    PlantedDefence("probabilities", probabilities, ("G12",), "the logits, or their logarithm"),
    PlantedDefence("zero gradient", zero_gradient, ("G2", "G3", "G4", "G7", "G8", "I1"), "BPDA"),
    PlantedDefence("flipped gradient", flipped_gradient, ("G2", "G3", "G4", "G8"), "BPDA"),
    PlantedDefence("input noise", noisy, ("G10",), "EOT", moves=None),
    PlantedDefence("thermometer code", thermometer, ("G7", "I1"), "BPDA through the ramp", moves=1 / 16),
    PlantedDefence("activation pruning", pruned, ("G10",), "BPDA and EOT", moves=None),
    PlantedDefence("jumps", jump, ("G8", "BIN"), "smoothed gradients, or BPDA", moves=1 / N_CELLS),
    PlantedDefence("inner gradient loop", purified, ("G7", "G11", "I1"), "BPDA over the loop"),
)


@dataclass(frozen=True)
class LastIterate:
    """PGD on the cross-entropy that returns where it ends, and not the worst point it has met.

    Where the gradient is sound the two are the same, for ascent does not leave what it has broken. Where it misleads
    they are not: on `flipped_gradient` whatever is misclassified on the way comes back classified right.
    """

    n_steps: int = 40

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        return maximise(
            engine_for(model),
            x,
            y,
            threat,
            keys=keys,
            start=threat.sample(x, rng.fold(keys, "start")),
            n_steps=self.n_steps,
            step_size=PGD(n_steps=self.n_steps).step_size_for(threat),
            loss=cross_entropy,
        )


@dataclass(frozen=True)
class TinySteps:
    """PGD from the image itself with steps of eps / 1000: after `n_steps` it has hardly left it."""

    n_steps: int = 40

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        pgd = PGD(n_steps=self.n_steps, step_size=threat.eps / 1000, random_start=False)
        return pgd(model, x, y, threat, keys=keys)


@dataclass(frozen=True)
class Inert:
    """Returns the images as they came and never asks the classifier, as an attack does whose errors are swallowed."""

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        return x.clone()


PLANTED_ATTACKS: tuple[PlantedAttack, ...] = (
    PlantedAttack("last iterate", LastIterate(), ("I3",), against=flipped_gradient),
    PlantedAttack("steps of eps / 1000", TinySteps(), ("G6", "I4", "BIN")),
    PlantedAttack("inert", Inert(), ("G13",)),
)


class _Undeclared(nn.Module):
    """The answer of a layer of `casemate.defences` without what it declares; it draws from torch's global generator."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        # A bound method is no submodule: whoever goes through the modules does not find the layer.
        self.answer = layer.forward

    def forward(self, x: Tensor) -> Tensor:
        with rng.drawing_from(None):
            return self.answer(x)


class _Rounded(nn.Module):
    def __init__(self, n_levels: int) -> None:
        super().__init__()
        self.top = n_levels - 1

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.top).round() / self.top


class _Decoded(nn.Module):
    """Thermometer planes back to images: the mean of the switches of a channel."""

    def __init__(self, n_levels: int) -> None:
        super().__init__()
        self.n_levels = n_levels

    def forward(self, planes: Tensor) -> Tensor:
        return planes.unflatten(1, (-1, self.n_levels)).mean(dim=2)


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return self.factor * logits


class _BackwardTimes(nn.Module):
    """The identity forwards; backwards the gradient times `factor`."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return _TimesGradient.apply(x, self.factor)


class _TimesGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradients[0], None


class _GaussianNoise(nn.Module):
    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sigma * torch.randn_like(x)


class _Mirrored(nn.Module):
    def __init__(self, n_cells: int) -> None:
        super().__init__()
        self.n_cells = n_cells

    def forward(self, x: Tensor) -> Tensor:
        cell = (x * self.n_cells).floor()
        channel, row, column = (torch.arange(size, device=x.device) for size in x.shape[1:])
        # Neighbours alternate: most pixels of some data sets are exactly 0, and all those would be of one kind.
        mirrored = (cell.long() + channel.view(-1, 1, 1) + row.view(-1, 1) + column) % 2 == 1
        # A value on the edge of its cell is mirrored in itself, so that no two values become one.
        centre = torch.where(x * self.n_cells == cell, x, (cell + 0.5) / self.n_cells).detach()
        return torch.where(mirrored, 2 * centre - x, x)


class _Purified(nn.Module):
    def __init__(self, classifier: nn.Module, n_steps: int, step_size: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.n_steps, self.step_size = n_steps, step_size

    def forward(self, x: Tensor) -> Tensor:
        # Whoever calls may have switched gradients off, in either of the two ways there are.
        with torch.inference_mode(False), torch.enable_grad():
            image = x.detach().clone()
            first = self.classifier(image).detach()
            taken_for = first.argmax(dim=1)
            for _ in range(self.n_steps):
                image.requires_grad_(True)
                loss = cross_entropy(self.classifier(image), taken_for).sum()
                (gradient,) = torch.autograd.grad(loss, image)
                image = (image - self.step_size * gradient.sign()).clamp(0, 1).detach()
            last = self.classifier(image).detach()
        return torch.where((last.argmax(dim=1) == taken_for)[:, None], last, first)
