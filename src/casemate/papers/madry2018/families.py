"""The families of networks behind figure 4 and tables 1 and 2, by the names of their recipes."""

from casemate.papers.item import Row, Setting

# What a network is trained on, as its recipe says it and as the paper does.
TRAININGS = {"natural": "natural", "fgsm": "FGSM", "pgd": "PGD"}

# Capacity scales of figure 4 on MNIST, and the one that the other figures and tables of a setting use.
SCALES: dict[Setting, tuple[int, ...]] = {"small": (1, 2, 4), "full": (1, 2, 4, 8, 16)}
OWN_SCALE: dict[Setting, int] = {"small": 4, "full": 16}

SIMPLE, WIDE = "simple", "wide"
# The networks on CIFAR-10 and how their recipes' names end. One gradient of the simple network takes as long as 45 of
# `small-cnn`, which stands in its place in the small setting.
CAPACITIES: dict[Setting, dict[str, str]] = {"small": {SIMPLE: ""}, "full": {SIMPLE: "-simple", WIDE: ""}}
STAND_IN = "three convolutions in the place of the paper's residual networks"


def mnist(training: str, scale: int, setting: Setting) -> str:
    return f"mnist-{training}" if scale == OWN_SCALE[setting] else f"mnist-{training}-scale{scale}"


def cifar10(training: str, capacity: str, setting: Setting) -> str:
    return f"cifar10-{training}{CAPACITIES[setting][capacity]}"


def stand_in(setting: Setting) -> list[Row]:
    """What a reader of the rows about CIFAR-10 must know."""
    if WIDE in CAPACITIES[setting]:
        return []
    return [Row("CIFAR-10: the networks", "residual networks", STAND_IN, "so that published and ours are far apart")]


def copy_of(name: str) -> str:
    """The same network from another seed."""
    return f"{name}-copy"
