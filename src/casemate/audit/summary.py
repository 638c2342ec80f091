"""What a run found, in the numbers that `casemate audit --json` prints."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from casemate.audit.statistics import Bracket
from casemate.audit.store import Store
from casemate.audit.verdict import BROKEN, MISCLASSIFIED, VERDICTS


@dataclass(frozen=True)
class AttackCount:
    """What one stage did: of the images that the stages before it left standing, `tried`, it `broke` some.

    One `within` a share of the margin runs on those of them alone that it takes, which a run does not record.
    `alone` counts the images that this stage breaks and no other one does.
    """

    name: str
    tried: int
    broke: int
    alone: int
    seconds: float


@dataclass(frozen=True)
class ProofCount:
    """What one certifier did: `tried` on the images that had no verdict when it ran, of which it `proved` some.

    `unusable` says why it was not tried: it knows nothing about the classifier.
    """

    name: str
    tried: int
    proved: int
    seconds: float
    unusable: str | None


@dataclass(frozen=True)
class Summary:
    """The result of an audit. `seconds` is the work in the blocks, also that of earlier sessions of a resumed run.

    `evaluation` is the verdict on the audit itself (`casemate.audit.diagnosis`), `symptoms` what it rests on, after the
    `remedies` that were applied, and `ways` what each way to a gradient found, where they were compared
    (`casemate.audit.remedies`); None and none where it was not asked for.
    """

    model: str
    data: str
    threat: str
    seed: int
    run: str
    seconds: float
    bracket: Bracket
    attacks: tuple[AttackCount, ...]
    certifiers: tuple[ProofCount, ...]
    evaluation: str | None
    symptoms: tuple[dict[str, Any], ...]
    remedies: tuple[dict[str, Any], ...]
    ways: tuple[dict[str, Any], ...]

    def as_json(self) -> dict[str, Any]:
        """The object of design section 5."""
        return {
            "model": self.model,
            "data": self.data,
            "threat": self.threat,
            "n": self.bracket.n,
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
            "run": self.run,
            "clean_accuracy": self.bracket.clean_accuracy,
            "attacked_accuracy": self.bracket.attacked_accuracy,
            "certified_accuracy": self.bracket.certified_accuracy,
            "robust_accuracy_interval": list(self.bracket.interval),
            "verdicts": {verdict: getattr(self.bracket, verdict) for verdict in VERDICTS},
            "attacks": [
                {
                    "name": attack.name,
                    "tried": attack.tried,
                    "broke": attack.broke,
                    "alone": attack.alone,
                    "seconds": round(attack.seconds, 3),
                }
                for attack in self.attacks
            ],
            "certifiers": [asdict(proof) | {"seconds": round(proof.seconds, 3)} for proof in self.certifiers],
            "evaluation": self.evaluation,
            "symptoms": list(self.symptoms),
            "remedies": list(self.remedies),
            "ways": list(self.ways),
        }


def summarise(store: Store) -> Summary:
    """The summary of what is in the store, finished or not; at least one image must have a verdict."""
    manifest, verdicts, seconds = store.manifest(), store.verdicts(), store.seconds()
    data, diagnosis = manifest["data"], store.diagnosis()
    return Summary(
        model=manifest["model"]["spec"],
        data=f"{data['name']}[{data['split']}]",
        threat=manifest["threat"],
        seed=manifest["seed"],
        run=str(store.run),
        seconds=seconds.total,
        bracket=Bracket(**count_verdicts(verdicts)),
        attacks=_count_attacks(
            verdicts, [attack["name"] for attack in manifest["attacks"]], manifest["certifiers"], seconds.attacks
        ),
        certifiers=_count_proofs(verdicts, manifest["certifiers"], seconds.proofs),
        evaluation=diagnosis["evaluation"],
        symptoms=tuple(diagnosis["symptoms"]),
        remedies=tuple(diagnosis["remedies"]),
        ways=tuple(diagnosis["ways"]),
    )


def count_verdicts(verdicts: pl.DataFrame) -> dict[str, int]:
    """How many images have each verdict."""
    return {verdict: int((verdicts["verdict"] == verdict).sum()) for verdict in VERDICTS}


def _count_attacks(
    verdicts: pl.DataFrame, names: list[str], certifiers: list[dict[str, Any]], seconds: Mapping[str, float]
) -> tuple[AttackCount, ...]:
    early = [proof["name"] for proof in certifiers if proof["early"]]
    # What is proved early is shown to no attack but the first, which is no attempt to break it.
    standing = int((verdicts["verdict"] != MISCLASSIFIED).sum()) - int(verdicts["certifier"].is_in(early).sum())
    broken = verdicts.filter(pl.col("verdict") == BROKEN)
    counts = []
    for name in names:
        mine = broken.filter(pl.col("attack") == name)
        alone = int((mine["broken_by"].list.len() == 1).sum())
        counts.append(AttackCount(name, standing, len(mine), alone, seconds.get(name, 0.0)))
        standing -= len(mine)
    return tuple(counts)


def _count_proofs(
    verdicts: pl.DataFrame, certifiers: list[dict[str, Any]], seconds: Mapping[str, float]
) -> tuple[ProofCount, ...]:
    broken = int((verdicts["verdict"] == BROKEN).sum())
    standing = int((verdicts["verdict"] != MISCLASSIFIED).sum())
    counts = []
    # In the order in which they ran: the attacks come between the early ones and the others.
    for proof in sorted(certifiers, key=lambda proof: not proof["early"]):
        name, unusable = proof["name"], proof["unusable"]
        proved = int((verdicts["certifier"] == name).sum())
        tried = 0 if unusable else standing - (0 if proof["early"] else broken)
        counts.append(ProofCount(name, tried, proved, seconds.get(name, 0.0), unusable))
        standing -= proved
    return tuple(counts)
