"""MNIST: what ConvSmall keeps clean, under attack and for certain by hybrid zonotopes, trained by goals of DiffAI."""

from casemate.bounds import IBP, ByZonotopes
from casemate.papers.bracket import ATTACKED, CERTIFIED, CLEAN, Bracket
from casemate.papers.item import Item

# Version 3 of their readme, ConvSmall; one network for each radius.
PUBLISHED = {
    0.1: {CLEAN: 97.8, ATTACKED: 96.2, CERTIFIED: 95.5},
    0.3: {CLEAN: 96.9, ATTACKED: 93.6, CERTIFIED: 89.1},
}
BRACKET = Bracket(
    "mnist",
    "ConvSmall, MNIST",
    {0.1: "mnist-near", 0.3: "mnist-far"},
    PUBLISHED,
    "200 to 400 epochs",
    "MI-FGSM",
    # Intervals prove nothing that the zonotopes with the same ReLUs do not, at a fraction of their cost.
    (IBP(), ByZonotopes(relu="box", hybrid=True)),
)

ITEM = Item(
    "mnist",
    "clean, attacked and certified accuracy at two radii",
    "their readme, MNIST",
    {"small": "5 minutes", "full": "1 hour"},
    BRACKET.make,
)
