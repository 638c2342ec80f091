"""Defended classifiers for CIFAR-10 as two cores can train them: which network, and what is put around it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from casemate import data
from casemate.defences import (
    JPEG,
    BitDepth,
    CropEnsemble,
    Quilting,
    TotalVariation,
    patch_bank,
    with_activation_pruning,
)
from casemate.papers.networks import Network

# Patches of training images, a tenth of what `patch_bank` takes: the distance to each is what quilting costs.
N_PATCHES = 10_000


@dataclass(frozen=True)
class Defended:
    """One row: the recipe of its `network`, what is built `around` it, and what was published.

    `claimed` is the accuracy under attack that its authors report, `broken` what Athalye et al. or the later break
    `by` left of it, both in percent, of networks and data sets of their own, which `on` names. `costly` ones are judged
    on fewer images.
    """

    name: str
    network: str
    around: Callable[[Network], nn.Module]
    claimed: float | None
    broken: float | None
    on: str
    by: str = "Athalye et al. 2018"
    costly: bool = False


def _as_it_is(network: Network) -> nn.Module:
    return network.model


def _before(defence: Callable[[], nn.Module]) -> Callable[[Network], nn.Module]:
    return lambda network: nn.Sequential(defence(), network.model)


def _quilted(network: Network) -> nn.Module:
    images = data.load(network.recipe.data, "train", limit=5000).images
    return nn.Sequential(Quilting(patch_bank(images, N_PATCHES)), network.model)


def _crops(network: Network) -> nn.Module:
    # The network was trained behind one crop, which the ensemble draws itself.
    return CropEnsemble(network.model.get_submodule("network"))


def _pruned(network: Network) -> nn.Module:
    return with_activation_pruning(network.model)


IMAGENET = "ImageNet, l2 0.05"
CIFAR = "CIFAR-10, linf 8/255"
DEFENDED = (
    Defended("no defence", "cifar10-natural", _as_it_is, None, None, ""),
    Defended("bit depth, 3 bits", "cifar10-natural", _before(BitDepth), 70.0, 0.0, IMAGENET),
    Defended("JPEG, quality 75", "cifar10-natural", _before(JPEG), 70.0, 0.0, IMAGENET),
    Defended("total variation", "cifar10-natural", _before(TotalVariation), 70.0, 0.0, IMAGENET, costly=True),
    Defended("quilting", "cifar10-natural", _quilted, 70.0, 0.0, IMAGENET, costly=True),
    Defended("crops, ensemble of 30", "cifar10-crop", _crops, 70.0, 0.0, IMAGENET, costly=True),
    Defended("resizing and padding", "cifar10-resize-pad", _as_it_is, 86.0, 0.0, "ImageNet, linf 8/255"),
    Defended(
        "thermometer, 16 levels", "cifar10-thermometer", _as_it_is, 50.0, 0.0, f"{CIFAR}, without adversarial training"
    ),
    Defended("activation pruning", "cifar10-natural", _pruned, 51.0, 0.0, f"{CIFAR} (claimed at 4/255)"),
    Defended("k winners, a tenth", "cifar10-k-winners", _as_it_is, 52.4, 0.16, CIFAR, by="Tramer et al. 2020"),
    Defended("PGD training", "cifar10-trained", _as_it_is, 46.0, 47.0, CIFAR),
)


def build(defended: Defended, network: Network) -> nn.Module:
    """The defended classifier around a trained network, on its device and in eval mode."""
    return defended.around(network).to(next(network.model.parameters()).device).eval()
