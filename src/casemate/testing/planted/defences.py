"""Planted defences: builders that turn a classifier into one that hides its gradient, and the list of them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from casemate.defences import ActivationPruning, Thermometer, with_activation_pruning
from casemate.defences.activations import replaced
from casemate.testing.planted.layers import (
    BackwardTimes,
    Decoded,
    GaussianNoise,
    Mirrored,
    Purified,
    Rounded,
    Times,
    Undeclared,
)

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


def quantised(classifier: nn.Module) -> nn.Module:
    """Pixel values are rounded to 3 bits, the 8 levels k / 7, and rounding has a zero gradient.

    The twin sees an image within half a level, 1/14. Conversely an image of those levels is its own rounding: what
    breaks the twin there breaks the planted one.
    """
    return nn.Sequential(Rounded(8), classifier)


def scaled_logits(classifier: nn.Module) -> nn.Module:
    """Logits times 100: the softmax saturates in float32, and cross-entropy has a zero gradient; margins have not.

    The order of the logits, and so every decision, is the twin's. It saturates where the twin's margin is above 1.04,
    as that of a trained network is on most images.
    """
    return nn.Sequential(classifier, Times(100))


def probabilities(classifier: nn.Module) -> nn.Module:
    """The softmax of the logits: what a loss of its own softmax no longer has a gradient for.

    The order is the twin's, save where logits so close as to round to one probability tie.
    """
    return nn.Sequential(classifier, nn.Softmax(dim=1))


def zero_gradient(classifier: nn.Module) -> nn.Module:
    """The identity, whose backward pass says zero. Every answer is the twin's."""
    return nn.Sequential(BackwardTimes(0.0), classifier)


def flipped_gradient(classifier: nn.Module) -> nn.Module:
    """The identity, whose backward pass turns the sign round: ascent descends. Every answer is the twin's."""
    return nn.Sequential(BackwardTimes(-1.0), classifier)


def noisy(classifier: nn.Module) -> nn.Module:
    """Gaussian noise of standard deviation 0.1 on every pixel value, from torch's global generator.

    The twin's answer at a point drawn around the image. Noise that nobody chose points nowhere in particular: an image
    that breaks the twin with some margin breaks most draws, and accuracy with and without an attack agrees with
    the twin's as far as the twin withstands such noise on clean images.
    """
    return nn.Sequential(GaussianNoise(0.1), classifier)


def thermometer(classifier: nn.Module) -> nn.Module:
    """Pixel values become 16 switches each, which have no gradient, and are decoded again as the share that is thrown.

    So that the twin can stand behind the code without training, where a network trained on codes would have no twin: it
    sees an image of the levels k / 16, each value rounded up by less than 1/16. Conversely an image of those levels is
    its own decoding: what breaks the twin there breaks the planted one. The decoding is linear, for it must hide
    nothing by itself.
    """
    n_levels = 16
    return nn.Sequential(Undeclared(Thermometer(n_levels)), Decoded(n_levels), classifier)


def pruned(classifier: nn.Module) -> nn.Module:
    """Stochastic activation pruning (SAP-100) after every activation, drawn from torch's global generator.

    What each layer hands on is, in the mean over draws, what the twin's does; the answers scatter around the twin's, so
    accuracies agree as far as the twin withstands pruning on clean images. Raises `CasemateError` where the
    classifier has no activation among its modules.
    """
    return replaced(with_activation_pruning(classifier), ActivationPruning, lambda layer, place: Undeclared(layer))


def jump(classifier: nn.Module) -> nn.Module:
    """Every other of 128 cells of pixel values is mirrored in itself, with a jump at its ends; neighbours alternate.

    In the place of the jumps of discontinuous activations and of k-winners-take-all, where a twin would have to be
    trained. The gradient is there and true, but half of its signs hold for less than a cell and are wrong beyond it.
    The mirroring is its own inverse and moves a value by less than a cell, 1/128: what breaks the twin at linf eps
    breaks the planted one at eps + 1/128, mirrored, and the other way round.
    """
    return nn.Sequential(Mirrored(N_CELLS), classifier)


def purified(classifier: nn.Module) -> nn.Module:
    """Three gradient steps inside the forward pass make the image more like the class it is taken for.

    The answer is that for the purified image, which no gradient leads back from. It can undo no attack, for it holds
    on to the twin's decision: where the steps happen to change it, the answer is the twin's own.
    """
    return Purified(classifier, n_steps=3, step_size=0.01)


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
