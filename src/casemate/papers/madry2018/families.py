"""The families of networks behind figure 4 and tables 1 and 2, as variants of the paper's recipes."""

from dataclasses import replace

from casemate.papers.item import Row, Setting
from casemate.papers.networks import Arguments, Variant

# What a network is trained on, as its recipe says it and as the paper does.
TRAININGS = {"natural": "natural", "fgsm": "FGSM", "pgd": "PGD"}

# Capacity scales of figure 4 on MNIST, and the one that the other figures and tables of a setting use.
SCALES: dict[Setting, tuple[int, ...]] = {"small": (1, 2, 4), "full": (1, 2, 4, 8, 16)}
OWN_SCALE: dict[Setting, int] = {"small": 4, "full": 16}

SIMPLE, WIDE = "simple", "wide"
# The networks on CIFAR-10 and their arguments other than the recipes', whose networks are the largest. One gradient of
# the simple network takes as long as 45 of `small-cnn`, which stands in its place in the small setting.
CAPACITIES: dict[Setting, dict[str, Arguments]] = {
    "small": {SIMPLE: ()},
    "full": {SIMPLE: (("width", 1),), WIDE: ()},
}
STAND_IN = "three convolutions in the place of the paper's residual networks"


def mnist(training: str, scale: int, setting: Setting) -> Variant:
    return Variant(f"mnist-{training}", arguments=() if scale == OWN_SCALE[setting] else (("scale", scale),))


def cifar10(training: str, capacity: str, setting: Setting) -> Variant:
    return Variant(f"cifar10-{training}", arguments=CAPACITIES[setting][capacity])


def stand_in(setting: Setting) -> list[Row]:
    """What a reader of the rows about CIFAR-10 must know."""
    if WIDE in CAPACITIES[setting]:
        return []
    return [Row("CIFAR-10: the networks", "residual networks", STAND_IN, "so that published and ours are far apart")]


def copy_of(network: Variant) -> Variant:
    """The same network from another seed: a source of transferred examples."""
    return replace(network, copy=network.copy + 1)
