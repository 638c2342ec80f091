"""The items of Gowal et al. 2018 that are reproduced: one file each, and one line here."""

from pathlib import Path

from casemate.papers.gowal2018 import cifar10, mnist, training_eps
from casemate.papers.item import Paper

GOWAL2018 = Paper(
    name="gowal2018",
    title="Gowal et al.: On the effectiveness of interval bound propagation for training verifiably robust models",
    recipes=Path(__file__).parent / "recipes",
    items=(mnist.ITEM, cifar10.ITEM, training_eps.ITEM),
)
