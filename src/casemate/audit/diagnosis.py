"""The diagnosis: what in the evaluation itself says that its attacks cannot be believed, cheap and decisive first.

Ids and order are those of Athalye et al. 2018 (arXiv:1802.00420, section 3.1), of Carlini et al. 2019 (1902.06705) and
of Pintor et al. 2022 (2106.09947), as `casemate.audit.symptoms` has them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from casemate import rng
from casemate.attacks import FGSM, PGD, Attack, HopSkipJump, RandomPoints, Square, Transfer, loss_path
from casemate.audit.symptoms import Symptom
from casemate.audit.symptoms.answers import inner_loop, probabilities, randomness
from casemate.audit.symptoms.binarization import binarization
from casemate.audit.symptoms.comparisons import attacked, budgets, constrained, convergence, inert, unbounded, upsets
from casemate.audit.symptoms.indicators import incomplete, silent_success, unstable
from casemate.audit.symptoms.paired import compared
from casemate.audit.symptoms.slopes import noise, unusable, wrong
from casemate.audit.symptoms.subject import Subject
from casemate.gradients import Engine
from casemate.losses import Labels
from casemate.threat import L2, Images, Linf, Threat

Evaluation = Literal["invalid", "masked", "weak attack", "no failure found"]
Progress = Callable[[str, int], None]
Transfers = Callable[[], Sequence[Transfer]]

# The first images that the classifier gets right, of those it is shown; fewer for what attacks them one by one.
N_IMAGES, N_PLANTED = 64, 40
STEPS = 40
FOLLOWED, LONGER = PGD(n_steps=STEPS, loss="margin"), PGD(n_steps=2 * STEPS, loss="margin")
ANYWHERE = PGD(n_steps=100, loss="margin")
BY_SCORES, AT_RANDOM = Square(n_queries=500), RandomPoints(n_points=200)
BY_DECISIONS = HopSkipJump(n_queries=500, n_evaluations=25)

# What a failing check says of the evaluation; the worst comes first.
FAILURES: dict[Evaluation, frozenset[str]] = {
    "invalid": frozenset({"G7", "G8", "G10", "G11", "G12", "G13", "G14"}),
    "masked": frozenset({"G1", "G2", "G3", "G4", "G5"}),
    "weak attack": frozenset({"G6", "I3", "I4", "BIN"}),
}

REMEDIES = {
    "G1": "smaller steps, more restarts, or another loss",
    "G2": "more queries of scores, transfer, and a surrogate where the gradient is cut off",
    "G4": "gradients from scores, or averaged over points nearby",
}


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on an evaluation (`evaluation_of`), and the outcome of every check that was made on `n` images."""

    n: int
    evaluation: Evaluation
    symptoms: tuple[Symptom, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "evaluation": self.evaluation,
            "symptoms": [asdict(symptom) for symptom in self.symptoms],
        }


def diagnose(
    engine: Engine,
    x: Images,
    y: Labels,
    threat: Threat,
    seed: int,
    progress: Progress | None = None,
    *,
    transfers: Transfers = tuple,
    stop_early: bool = True,
) -> Diagnosis:
    """The diagnosis of attacks by gradient on the first `N_IMAGES` of the images x that the classifier gets right.

    `transfers` gives attacks from other classifiers, which join those that need no gradient (G2); it is called when
    they are needed. Where the answers or the gradient are themselves unfit (G7, G8, G10, G11, G12), attacks would tell
    nothing, and none is run; points are planted (BIN) where no other check fails. Without `stop_early` every check is
    made but BIN where another fails.
    """
    subject = shown(engine, x, y, threat, seed, N_IMAGES)
    symptoms = tuple(_symptoms(subject, progress, transfers, stop_early=stop_early)) if len(subject.x) else ()
    return Diagnosis(len(subject.x), evaluation_of(symptoms), symptoms)


def shown(engine: Engine, x: Images, y: Labels, threat: Threat, seed: int, n: int) -> Subject:
    """The first `n` of the images x that the classifier gets right, as what is diagnosed."""
    keys = rng.fold(rng.image_keys(seed, torch.arange(len(x), device=x.device)), "diagnosis")
    at = (engine.logits(x, keys=keys).argmax(dim=1) == y).nonzero().squeeze(1)[:n]
    return Subject(engine, x[at], y[at], threat, keys[at])


def evaluation_of(symptoms: Sequence[Symptom]) -> Evaluation:
    """The verdict on an evaluation, by the checks that fail: the worst kind of `FAILURES`, else "no failure found"."""
    failing = {symptom.id for symptom in symptoms if symptom.status == "fail"}
    return next((evaluation for evaluation, ids in FAILURES.items() if failing & ids), "no failure found")


def _symptoms(subject: Subject, progress: Progress | None, transfers: Transfers, *, stop_early: bool) -> list[Symptom]:
    def tell(doing: str) -> None:
        if progress is not None:
            progress(f"diagnosis: {doing}", len(subject.x))

    tell("answers")
    found = [probabilities(subject), randomness(subject), inner_loop(subject)]
    if stop_early and _any_fails(found):
        return found
    tell("gradients")
    found += [unusable(subject), wrong(subject)]
    if stop_early and _any_fails(found):
        return found
    found += [noise(subject), unstable(subject)]
    tell("the attack and its path")
    found += _of_the_attack(subject, transfers) + _of_the_budget(subject, tell)
    if not _any_fails(found):
        # The dearest, which says nothing more of an attack that is known to fail.
        tell("points that are certainly there")
        found.append(binarization(subject.first(N_PLANTED), FOLLOWED))
    return found


def _any_fails(symptoms: Sequence[Symptom]) -> bool:
    return any(symptom.status == "fail" for symptom in symptoms)


def _of_the_attack(subject: Subject, transfers: Transfers) -> list[Symptom]:
    """G13, G14, G6, I3, I4, and then the weaker attacks: G1, G2, G4."""
    first, twice = (attacked(subject, attack, "followed") for attack in (FOLLOWED, LONGER))
    keys = rng.fold(subject.keys, "path")
    path = -loss_path(subject.engine, subject.x, subject.y, subject.threat, keys=keys, attack=FOLLOWED)
    returned = FOLLOWED(subject.engine, subject.x, subject.y, subject.threat, keys=keys)
    broken = subject.engine.logits(returned, keys=subject.keys).argmax(dim=1) != subject.y
    return [
        inert(subject, first),
        constrained(subject, first),
        convergence(first, twice),
        silent_success(path, broken, random=subject.engine.random_answers),
        incomplete(path),
        *_upsets(subject, first.broken | twice.broken, transfers),
    ]


def _upsets(subject: Subject, stronger: Tensor, transfers: Transfers) -> list[Symptom]:
    """G1, G2 and G4, by which images the attacks by gradient broke."""
    if bool(stronger.all()):
        meaning = "the gradient breaks every image, so that nothing is left to a weaker attack"
        return [Symptom(check, "pass", 0.0, meaning) for check in REMEDIES]
    pairs = [
        (check, name, compared(attacked(subject, attack, name).broken, stronger))
        for check, name, attack in _weaker(subject.threat, transfers())
    ]
    return upsets(pairs, REMEDIES)


def _weaker(threat: Threat, transfers: Sequence[Transfer]) -> Iterator[tuple[str, str, Attack]]:
    """The attacks that must be weaker than those by gradient: of which check each is, and what it is called."""
    yield "G1", "one step", FGSM()
    yield "G2", f"Square by {BY_SCORES.n_queries} scores", BY_SCORES
    if isinstance(threat, (Linf, L2)):
        yield "G2", f"HopSkipJump by {BY_DECISIONS.n_queries} decisions", BY_DECISIONS
    for transfer in transfers:
        yield "G2", f"transfer from {transfer.name}", transfer
    yield "G4", f"{AT_RANDOM.n_points} random points", AT_RANDOM


def _of_the_budget(subject: Subject, tell: Callable[[str], None]) -> list[Symptom]:
    """G3 and G5."""
    tell("the whole box")
    box = unbounded(subject, ANYWHERE)
    tell("smaller and larger budgets")
    n_classes = subject.engine.logits(subject.x[:1], keys=subject.keys[:1]).shape[1]
    return [box, budgets(subject, FOLLOWED, n_classes)[0]]
