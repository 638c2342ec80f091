"""The items of Athalye et al. 2018 that are reproduced: one file each, and one line here."""

from pathlib import Path

from casemate.papers.athalye2018 import cifar10, table1
from casemate.papers.item import Paper

ATHALYE2018 = Paper(
    name="athalye2018",
    title="Athalye, Carlini and Wagner: Obfuscated gradients give a false sense of security",
    recipes=Path(__file__).parent / "recipes",
    items=(table1.ITEM, cifar10.ITEM),
)
