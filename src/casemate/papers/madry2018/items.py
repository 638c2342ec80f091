"""The items of Madry et al. 2018 that are reproduced, in the order of the paper: one file each, and one line here."""

from pathlib import Path

from casemate.papers.item import Paper
from casemate.papers.madry2018 import (
    dimension,
    figure1,
    figure2,
    figure4,
    figure6,
    filters,
    landscape,
    norms,
    table1,
    table2,
    two_cores,
)

MADRY2018 = Paper(
    name="madry2018",
    title="Madry, Makelov, Schmidt, Tsipras and Vladu: Towards deep learning models resistant to adversarial attacks",
    recipes=Path(__file__).parent / "recipes",
    items=(
        figure1.ITEM,
        figure2.ITEM,
        landscape.ITEM,
        figure4.ITEM,
        table1.ITEM,
        table2.ITEM,
        figure6.ITEM,
        filters.ITEM,
        dimension.ITEM,
        norms.ITEM,
        two_cores.ITEM,
    ),
)
