"""Table 4, MNIST: what networks trained by intervals keep clean, under attack and for certain, at four radii."""

from casemate.papers.bracket import ATTACKED, CERTIFIED, CLEAN, Bracket
from casemate.papers.item import Item

# Of the authors' released networks (their readme): the certified ones by intervals alone, as ours. The attacked ones
# are after PGD with 20 steps of Adam.
PUBLISHED = {
    0.1: {CLEAN: 98.94, ATTACKED: 97.99, CERTIFIED: 97.08},
    0.2: {CLEAN: 98.34, ATTACKED: 97.06, CERTIFIED: 95.47},
    0.3: {CLEAN: 98.34, ATTACKED: 96.03, CERTIFIED: 91.79},
    0.4: {CLEAN: 98.34, ATTACKED: 94.56, CERTIFIED: 84.99},
}
NETWORKS = {0.1: "mnist-near", 0.2: "mnist-far", 0.3: "mnist-far", 0.4: "mnist-far"}
BRACKET = Bracket("mnist", "MNIST", NETWORKS, PUBLISHED, "not printed; 60,000 steps of 200 images", "PGD-20 by Adam")

ITEM = Item(
    "mnist",
    "clean, attacked and certified accuracy at four radii",
    "table 4, MNIST",
    {"small": "20 minutes", "full": "2 days"},
    BRACKET.make,
)
