"""Table 2, and tables 3 and 4 of appendix D: attacks and transfers on CIFAR-10."""

from casemate.attacks import PGD
from casemate.papers.item import Item, Outcome, Run, Setting
from casemate.papers.madry2018 import table, transfers
from casemate.papers.madry2018.families import CAPACITIES, SIMPLE, TRAININGS, WIDE, cifar10, copy_of, stand_in
from casemate.papers.madry2018.grid import NONE, Line, Search
from casemate.papers.madry2018.pair import DATA_SETS
from casemate.papers.madry2018.table import Table
from casemate.papers.networks import Variant

N_IMAGES: dict[Setting, int] = {"small": 1000, "full": 10_000}

CIFAR10 = DATA_SETS[1]

FGSM = Search(PGD(n_steps=1, step_size=8 / 255, random_start=False))
PGD7, PGD20 = Search(PGD(n_steps=7, step_size=CIFAR10.step_size)), Search(PGD(n_steps=20, step_size=CIFAR10.step_size))
CW = PGD(n_steps=30, step_size=CIFAR10.step_size, loss="margin")

A, COPY, NATURAL = "A", "A'", "A_nat"


def _line(method: str, source: str, published: float, search: Search | None) -> Line:
    return Line(table.PART, method, A, source, published, search)


ATTACKS = (
    _line("clean", NONE, 87.3, None),
    _line("FGSM", A, 56.1, FGSM),
    _line("PGD", A, 50.0, PGD7),
    _line("PGD", A, 45.8, PGD20),
    _line("CW", A, 46.8, Search(CW)),
    _line("FGSM", COPY, 67.0, FGSM),
    _line("PGD", COPY, 64.2, PGD7),
    _line("CW", COPY, 78.7, Search(CW, until_fooled=True)),
    _line("FGSM", NATURAL, 85.6, FGSM),
    _line("PGD", NATURAL, 86.0, PGD7),
)

NAMES = [f"{capacity} {title}" for capacity in (SIMPLE, WIDE) for title in TRAININGS.values()]
# Tables 3 (FGSM) and 4 (PGD-7) of the ICLR version: a row for each target, sources in the order of `NAMES`.
FGSM_LEFT = (
    (32.9, 74.0, 73.7, 27.6, 71.8, 76.6),
    (64.2, 90.7, 60.9, 61.5, 90.2, 67.3),
    (77.1, 78.1, 60.2, 77.0, 77.9, 66.3),
    (34.9, 78.7, 80.2, 21.3, 75.8, 80.6),
    (64.5, 93.6, 69.1, 53.7, 92.2, 72.8),
    (85.8, 86.6, 73.3, 85.6, 86.2, 67.0),
)
PGD_LEFT = (
    (6.6, 71.6, 71.8, 1.4, 51.4, 75.6),
    (66.3, 40.3, 58.4, 65.4, 26.8, 66.2),
    (78.1, 78.2, 57.7, 77.9, 78.1, 65.2),
    (10.9, 79.6, 79.1, 0.0, 51.3, 79.7),
    (67.6, 51.7, 67.4, 56.5, 0.0, 71.6),
    (86.4, 86.8, 72.1, 86.0, 86.3, 64.2),
)
TRANSFERS = {
    (target, source): (FGSM_LEFT[row][column], PGD_LEFT[row][column])
    for row, target in enumerate(NAMES)
    for column, source in enumerate(NAMES)
}

STRONGER = "stronger adversaries in training decrease transferability"
LARGER = "capacity decreases transferability"


def make(run: Run) -> Outcome:
    """The ten lines of the table, and every transfer between the networks that the setting has."""
    capacities = CAPACITIES[run.setting]
    networks = {
        f"{capacity} {title}": cifar10(training, capacity, run.setting)
        for capacity in capacities
        for training, title in TRAININGS.items()
    }
    own = {A: Variant("cifar10-pgd")}
    others = {COPY: copy_of(own[A]), NATURAL: copy_of(Variant("cifar10-natural"))}
    claims = [(STRONGER, f"{capacity} natural", f"{capacity} PGD") for capacity in capacities]
    return table.outcome(
        Table(
            CIFAR10,
            (*ATTACKS, *transfers.lines(list(networks), FGSM, PGD7, TRANSFERS)),
            own | networks,
            own | others | {transfers.primed(name): copy_of(network) for name, network in networks.items()},
            (*claims, (LARGER, f"{SIMPLE} PGD", f"{WIDE} PGD")) if WIDE in capacities else tuple(claims),
            N_IMAGES[run.setting],
            tuple(stand_in(run.setting)),
        ),
        run,
    )


ITEM = Item(
    "table2",
    "CIFAR-10: white-box attacks, black-box attacks and transfers between all networks",
    "table 2; tables 3 and 4 of appendix D",
    {"small": "1 minute", "full": "needs a GPU"},
    make,
)
