"""The items of Mirman et al. 2018 that are reproduced: one file each, and one line here."""

from pathlib import Path

from casemate.papers.item import Paper
from casemate.papers.mirman2018 import domains, mnist

MIRMAN2018 = Paper(
    name="mirman2018",
    title="Mirman, Gehr and Vechev: Differentiable abstract interpretation for provably robust neural networks",
    recipes=Path(__file__).parent / "recipes",
    items=(mnist.ITEM, domains.ITEM),
)
