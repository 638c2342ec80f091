"""Table 4, CIFAR-10: what networks trained by intervals keep clean, under attack and for certain, at two radii."""

from casemate.papers.bracket import ATTACKED, CERTIFIED, CLEAN, Bracket
from casemate.papers.item import Item

# Of the authors' released networks (their readme), by intervals alone.
PUBLISHED = {
    2 / 255: {CLEAN: 70.21, ATTACKED: 56.53, CERTIFIED: 44.12},
    8 / 255: {CLEAN: 49.49, ATTACKED: 39.53, CERTIFIED: 31.56},
}
NETWORKS = {2 / 255: "cifar10-near", 8 / 255: "cifar10-far"}
BRACKET = Bracket(
    "cifar10", "CIFAR-10", NETWORKS, PUBLISHED, "3,200 epochs on 32 TPUs (the authors, issue 1)", "PGD-20 by Adam"
)

ITEM = Item(
    "cifar10",
    "clean, attacked and certified accuracy at two radii",
    "table 4, CIFAR-10",
    {"small": "1.5 hours", "full": "weeks"},
    BRACKET.make,
)
