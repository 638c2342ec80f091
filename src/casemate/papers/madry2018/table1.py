"""Table 1: the adversarially trained MNIST network against attacks on itself and from other networks."""

from casemate.attacks import PGD
from casemate.papers.item import Item, Outcome, Run, Setting
from casemate.papers.madry2018 import table, transfers
from casemate.papers.madry2018.families import TRAININGS, copy_of
from casemate.papers.madry2018.grid import NONE, Line, Search
from casemate.papers.madry2018.pair import DATA_SETS
from casemate.papers.madry2018.table import Table
from casemate.papers.networks import Variant

N_IMAGES: dict[Setting, int] = {"small": 500, "full": 10_000}

MNIST = DATA_SETS[0]


def pgd(n_steps: int, n_restarts: int = 1, loss: str = "cross-entropy", *, until_fooled: bool = False) -> Search:
    return Search(PGD(n_steps, MNIST.step_size, loss), n_restarts, until_fooled)


FGSM = Search(PGD(n_steps=1, step_size=0.3, random_start=False))
TARGETED = Search(PGD(n_steps=40, step_size=MNIST.step_size, target_rank=1))
MARGIN_STEP = Search(PGD(n_steps=1, step_size=0.3, loss="margin", random_start=False))

SAME = "the search is that of CW: an image leaves when it is fooled, and kappa = 50 matters only afterwards"
UNSAID = "the paper does not say how many steps; here one of eps, as in its other lines without a number"
TARGETS_UNSAID = "towards the most likely wrong class; the paper does not say which"
B_UNSAID = "B is naturally trained; the paper does not say how"

A, COPY, NATURAL, B = "A", "A'", "A_nat", "B"


def _line(method: str, source: str, published: float | None, search: Search | None, note: str = "") -> Line:
    return Line(table.PART, method, A, source, published, search, note)


ATTACKS = (
    _line("clean", NONE, 98.8, None),
    _line("FGSM", A, 95.6, FGSM),
    _line("PGD", A, 93.2, pgd(40)),
    _line("PGD", A, 91.8, pgd(100)),
    _line("PGD", A, 90.4, pgd(40, 20)),
    _line("PGD", A, 89.3, pgd(100, 20)),
    _line("targeted", A, 92.7, TARGETED, TARGETS_UNSAID),
    _line("CW", A, 94.0, pgd(40, loss="margin")),
    _line("CW+", A, 93.9, pgd(40, loss="margin"), SAME),
    _line("FGSM", COPY, 96.8, FGSM),
    _line("PGD", COPY, 96.0, pgd(40)),
    _line("PGD", COPY, 95.7, pgd(100, 20)),
    _line("CW", COPY, 97.0, pgd(40, loss="margin", until_fooled=True)),
    _line("CW+", COPY, 96.4, pgd(40, loss="margin")),
    _line("FGSM", NATURAL, None, FGSM),
    _line("PGD", NATURAL, None, pgd(40)),
    _line("FGSM", B, 95.4, FGSM, B_UNSAID),
    _line("PGD", B, 96.4, pgd(40), B_UNSAID),
    _line("CW+", B, 95.7, MARGIN_STEP, f"{B_UNSAID}; {UNSAID}"),
    # Section 4, in the text.
    Line(table.PART, "clean", NATURAL, NONE, 99.2, None),
    Line(table.PART, "FGSM", NATURAL, NATURAL, 6.4, FGSM),
)
# Figure 8 of the ICLR version, large networks; the last entry is that of table 1.
TRANSFERS = {
    ("natural", "natural"): (41.9, 26.0),
    ("FGSM", "FGSM"): (62.0, 54.1),
    ("PGD", "PGD"): (96.8, 96.0),
}

NETWORKS = {title: Variant(f"mnist-{training}") for training, title in TRAININGS.items()}
COPIES = {title: copy_of(network) for title, network in NETWORKS.items()}
# A_nat is a copy too, since a black box does not share initial weights with its target.
TARGETS = NETWORKS | {A: NETWORKS["PGD"], NATURAL: COPIES["natural"]}
SOURCES = {transfers.primed(title): copy for title, copy in COPIES.items()} | {
    A: NETWORKS["PGD"],
    COPY: COPIES["PGD"],
    NATURAL: COPIES["natural"],
    B: Variant("mnist-natural-b"),
}
LINES = (*ATTACKS, *transfers.lines(list(TRAININGS.values()), FGSM, pgd(40), TRANSFERS))


def make(run: Run) -> Outcome:
    """The table's 17 lines, four that it lacks, and every transfer between networks trained in the three ways."""
    claims = (("stronger adversaries in training decrease transferability", "natural", "PGD"),)
    return table.outcome(Table(MNIST, LINES, TARGETS, SOURCES, claims, N_IMAGES[run.setting]), run)


ITEM = Item(
    "table1",
    "MNIST: white-box and black-box attacks on the adversarially trained network",
    "table 1; figure 8 of appendix D",
    {"small": "4 minutes", "full": "8 hours"},
    make,
)
