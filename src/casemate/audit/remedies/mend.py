"""The audit's answer to its own symptoms: diagnose, apply what the failing checks ask for, and diagnose again."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from casemate.attacks import Transfer
from casemate.audit.diagnosis import Diagnosis, diagnose, shown
from casemate.audit.remedies.candidates import ways_of
from casemate.audit.remedies.imitate import imitated
from casemate.audit.remedies.measure import Measured, best, measured
from casemate.audit.remedies.plan import Plan
from casemate.audit.remedies.radius import linf_radius
from casemate.audit.remedies.seeded import seeded
from casemate.audit.remedies.undeclared import declares_surrogate
from casemate.audit.remedies.ways import BySource, Estimated, Way
from casemate.audit.symptoms import Symptom
from casemate.audit.symptoms.answers import PROBABILITIES
from casemate.gradients import Engine
from casemate.losses import Labels
from casemate.threat import Images, Threat

# So many images show which way to a gradient is the best.
N_SHOWN = 32
# On so many it is seen whether a batch can draw as its images do alone.
N_SEEDED = 4
# Pairs of points of an estimated gradient, the last resort, and the queries where scores find what gradients miss.
N_PAIRS, N_QUERIES = 64, 5000
# Each round but the last mends what it found.
MAX_ROUNDS = 5

# The checks that another way to a gradient may mend, and those that more questions to the scores may.
MISLED = frozenset({"G1", "G2", "G3", "G4", "G5", "G7", "G8", "G11"})
MISSED = frozenset({"G2", "G4"})

NOTHING = Plan()

EngineBy = Callable[[Plan], Engine]
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Applied:
    """A remedy in words, `did`, and the symptoms that asked for it."""

    did: str
    symptoms: tuple[Symptom, ...]


@dataclass(frozen=True)
class Mended:
    """The last diagnosis, the plan whose it is, the remedies of that plan in the order in which they were applied, and
    what each way to a gradient found, where they were compared."""

    diagnosis: Diagnosis
    plan: Plan
    applied: tuple[Applied, ...]
    ways: tuple[Measured, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            **self.diagnosis.as_json(),
            "remedies": [asdict(one) for one in self.applied],
            "ways": [way.as_json() for way in self.ways],
        }


def mended(
    model: nn.Module,
    engine_by: EngineBy,
    x: Images,
    y: Labels,
    threat: Threat,
    seed: int,
    *,
    start: Plan = NOTHING,
    progress: Progress | None = None,
) -> Mended:
    """Diagnose, and apply remedies until no check fails that a remedy is known for, or the rounds are over.

    `model` is the classifier as it was given and `engine_by` makes the engine of a plan for it. x [N, C, H, W] with
    labels y are the images that `diagnose` may choose from. `start` is the plan of the first round, which knows of
    answers that are probabilities and of classifiers to transfer from. A small network that learns to answer as the
    classifier does is one more of these. What no remedy mends stays in the verdict on the evaluation.
    """
    mender = _Mender(model, engine_by, x, y, threat, seed, start, progress)
    plan = start
    if plan.logarithm:
        mender.note([PROBABILITIES], plan, NOTHING)
    for _ in range(MAX_ROUNDS - 1):
        diagnosis = mender.diagnosis(plan)
        failing = [symptom for symptom in diagnosis.symptoms if symptom.status == "fail"]
        better = mender.better(plan, frozenset(symptom.id for symptom in failing)) if diagnosis.n else plan
        if better == plan:
            break
        mender.note(failing, better, plan)
        plan = better
    else:
        diagnosis = mender.diagnosis(plan)
    return Mended(diagnosis, plan, tuple(mender.applied), tuple(mender.ways))


@dataclass(eq=False)
class _Mender:
    """What has been compared and applied so far."""

    model: nn.Module
    engine_by: EngineBy
    x: Images
    y: Labels
    threat: Threat
    seed: int
    start: Plan
    progress: Progress | None
    ways: list[Measured] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)

    def diagnosis(self, plan: Plan) -> Diagnosis:
        def transfers() -> Sequence[Transfer]:
            return replace(plan, sources=self.sources).transfers()

        return diagnose(
            self.engine_by(plan), self.x, self.y, self.threat, self.seed, self.progress, transfers=transfers
        )

    @cached_property
    def sources(self) -> tuple[BySource, ...]:
        """What was given to transfer from, and what is taught here to answer as the classifier does."""
        self._tell("a small network learns to answer as the classifier does")
        taught = imitated(self.engine_by(self.start), self.x, self.threat, self.seed)
        return (*self.start.sources, *taught)

    def better(self, plan: Plan, failing: Collection[str]) -> Plan:
        """`plan` with the first remedy that changes it, itself where there is none."""
        for remedy in (self._seeded, self._another_way, self._by_scores, self._more_queries):
            found = remedy(plan, failing)
            if found != plan:
                return found
        return plan

    def note(self, symptoms: Collection[Symptom], better: Plan, plan: Plan) -> None:
        self.applied.append(Applied(better.beyond(plan), tuple(symptoms)))

    def _seeded(self, plan: Plan, failing: Collection[str]) -> Plan:
        if "G10" not in failing or plan.seeded != "no":
            return plan
        by_itself = seeded(self.model, self.x[:N_SEEDED]).one_by_one
        return replace(plan, seeded="one by one" if by_itself else "in batches")

    def _another_way(self, plan: Plan, failing: Collection[str]) -> Plan:
        """Every way to a gradient but the last resort, compared once; also where a surrogate is declared."""
        if self.ways or not (MISLED & set(failing) or declares_surrogate(self.model)):
            return plan
        self._tell("what ways to a gradient there are")
        candidates = ways_of(self.model, self.x[:N_SHOWN], self.threat, self.seed)
        # Of a random classifier's points the mean over its own draws is to be followed.
        elsewhere = () if self.engine_by(plan).random_answers else self.sources
        return self._compared(plan, [*candidates, *elsewhere])

    def _by_scores(self, plan: Plan, failing: Collection[str]) -> Plan:
        if not MISLED & set(failing) or any(isinstance(one.way, Estimated) for one in self.ways):
            return plan
        return self._compared(plan, [Estimated(linf_radius(self.threat, self.x) / 2, N_PAIRS)])

    def _more_queries(self, plan: Plan, failing: Collection[str]) -> Plan:
        return replace(plan, n_queries=N_QUERIES, sources=self.sources) if MISSED & set(failing) else plan

    def _compared(self, plan: Plan, candidates: list[Way]) -> Plan:
        subject = shown(self.engine_by(plan), self.x, self.y, self.threat, self.seed, N_SHOWN)
        self.ways += measured(candidates, lambda way: self.engine_by(replace(plan, way=way)), subject, self._tell)
        return replace(plan, way=best(self.ways).way)

    def _tell(self, doing: str) -> None:
        if self.progress is not None:
            self.progress(f"diagnosis: {doing}", min(N_SHOWN, len(self.x)))
