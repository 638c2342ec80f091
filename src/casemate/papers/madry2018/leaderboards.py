"""The leaderboards of the two challenges of Madry et al. 2018, and where an accuracy of ours would stand on them.

Source: the README files of github.com/MadryLab/mnist_challenge and cifar10_challenge, read after the challenges closed.
Accuracies are percentages left of the 10,000 test images on the challenges' own secret networks, so the least is the
best attack. The black-box tracks were run while the weights were secret (until October and December 2017), the
white-box tracks after that.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One line of a leaderboard; `accuracy` in percent, with two decimals."""

    attack: str
    accuracy: float


@dataclass(frozen=True)
class Track:
    """A leaderboard, best attack first."""

    name: str
    entries: tuple[Entry, ...]

    def place(self, accuracy: float) -> int:
        """The place, from 1, at which a share of images left would stand; behind those with the same two decimals."""
        return 1 + sum(entry.accuracy <= round(100 * accuracy, 2) for entry in self.entries)

    def with_ours(self, accuracy: float, name: str) -> list[Entry]:
        """The entries with ours, called `name`, in its place."""
        ours = self.place(accuracy) - 1
        return [*self.entries[:ours], Entry(name, round(100 * accuracy, 2)), *self.entries[ours:]]


MNIST_BLACK_BOX = Track(
    "black box",
    (
        Entry("AdvGAN", 92.76),
        Entry("PGD on three adversarially trained copies", 93.54),
        Entry("FGSM on the CW loss, from network B", 94.36),
        Entry("FGSM on the CW loss, from the natural public network", 96.08),
        Entry("PGD on cross-entropy, from the natural public network", 96.81),
        Entry("Gaussian filter on chosen pixels, from the adversarially trained public network", 97.33),
        Entry("FGSM on cross-entropy, from the adversarially trained public network", 97.66),
        Entry("PGD on cross-entropy, from the adversarially trained public network", 97.79),
    ),
)
MNIST_WHITE_BOX = Track(
    "white box",
    (
        Entry("Guided local attack", 88.00),
        Entry("PCROS", 88.04),
        Entry("Distributionally adversarial attack, adaptive", 88.06),
        Entry("PGD with output-diversified initialisation", 88.13),
        Entry("Square attack", 88.25),
        Entry("First-order adversary with quantised gradients", 88.32),
        Entry("MultiTargeted", 88.36),
        Entry("Interval attack, second submission", 88.42),
        Entry("Distributionally adversarial attack, merged over settings", 88.56),
        Entry("Interval attack", 88.59),
        Entry("Distributionally adversarial attack", 88.79),
        Entry("Logit difference to the best target, first order", 88.85),
        Entry("PGD-100 x 50 on cross-entropy", 89.62),
        Entry("PGD-100 x 50 on the CW loss", 89.71),
        Entry("PGD-100 on cross-entropy", 92.52),
        Entry("PGD-100 on the CW loss", 93.04),
        Entry("FGSM on cross-entropy", 96.36),
        Entry("FGSM on the CW loss", 96.40),
    ),
)
CIFAR10_BLACK_BOX = Track(
    "black box",
    (
        Entry("PGD on cross-entropy, from the adversarially trained public network", 63.39),
        Entry("PGD on the CW loss, from the adversarially trained public network", 64.38),
        Entry("FGSM on the CW loss, from the adversarially trained public network", 67.25),
        Entry("FGSM on the CW loss, from the natural public network", 85.23),
    ),
)
CIFAR10_WHITE_BOX = Track(
    "white box",
    (
        Entry("Guided local attack", 43.95),
        Entry("EWR-PGD", 43.96),
        Entry("PGD with output-diversified initialisation", 43.99),
        Entry("MultiTargeted", 44.03),
        Entry("FAB", 44.51),
        Entry("Distributionally adversarial attack", 44.71),
        Entry("PGD-20 x 10 on cross-entropy", 45.21),
        Entry("PGD-20 on cross-entropy", 47.04),
        Entry("PGD-20 on the CW loss", 47.76),
        Entry("FGSM on the CW loss", 54.92),
        Entry("FGSM on cross-entropy", 55.55),
    ),
)
