"""The lines of table 1, and distillation, which the paper cites as an earlier case: what was claimed and what was left.

Percent of accuracy, on the data and at the distance of the paper; None where no accuracy was claimed. The claims are
those of the defences' authors as robust-ml.org lists them, the breaks those of table 1 or of the source that is named.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """`setting` is where both numbers stand for; `claim` and `left` are percentages."""

    setting: str
    claim: float | None
    left: float
    note: str = ""


THERMOMETER = Published("CIFAR-10, linf 8/255", 79, 0, "adversarially trained: 30 left")
LID = Published("CIFAR-10, linf 8/255", None, 5, "claimed: AUC 0.974 as a detector")
TRANSFORMATIONS = Published("ImageNet, l2", 70, 0)
PRUNING = Published("CIFAR-10, linf 8/255", 51, 0, "claimed at 4/255")
RESIZING = Published("ImageNet, linf 8/255", 86, 0, "claimed at 10/255, of the images right at first")
PIXEL_DEFEND = Published("CIFAR-10, linf 8/255", 70, 9)
DEFENSE_GAN = Published("MNIST, l2 0.005", 92, 55)
MADRY = Published("CIFAR-10, linf 8/255", 46, 47)
CASCADE = Published("CIFAR-10, linf 0.015", None, 15)
DISTILLATION = Published("MNIST, linf 0.3", None, 0.4, "not in table 1; 94.2 by a first PGD (Pintor et al. 2022)")
