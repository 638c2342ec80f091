"""What a run found, in the numbers that `casemate audit --json` prints."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from casemate.audit.statistics import Bracket
from casemate.audit.store import Store
from casemate.audit.verdict import BROKEN, MISCLASSIFIED, VERDICTS


@dataclass(frozen=True)
class AttackCount:
    """What one stage did: `tried` on the images the stages before it left standing, of which it `broke` some.

    `alone` counts the images that this stage breaks and no other one does.
    """

    name: str
    tried: int
    broke: int
    alone: int
    seconds: float


@dataclass(frozen=True)
class Summary:
    """The result of an audit. `seconds` is the work in the blocks, also that of earlier sessions of a resumed run.

    `evaluation` is the verdict on the audit itself (`casemate.audit.diagnosis`), and `symptoms` what it rests on; None
    and none where it was not asked for.
    """

    model: str
    data: str
    threat: str
    seed: int
    run: str
    seconds: float
    bracket: Bracket
    attacks: tuple[AttackCount, ...]
    evaluation: str | None
    symptoms: tuple[dict[str, Any], ...]

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
            "certifiers": [],
            "evaluation": self.evaluation,
            "symptoms": list(self.symptoms),
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
        attacks=_count_attacks(verdicts, [attack["name"] for attack in manifest["attacks"]], seconds.attacks),
        evaluation=diagnosis["evaluation"],
        symptoms=tuple(diagnosis["symptoms"]),
    )


def count_verdicts(verdicts: pl.DataFrame) -> dict[str, int]:
    """How many images have each verdict."""
    return {verdict: int((verdicts["verdict"] == verdict).sum()) for verdict in VERDICTS}


def _count_attacks(verdicts: pl.DataFrame, names: list[str], seconds: Mapping[str, float]) -> tuple[AttackCount, ...]:
    standing = int((verdicts["verdict"] != MISCLASSIFIED).sum())
    broken = verdicts.filter(pl.col("verdict") == BROKEN)
    counts = []
    for name in names:
        mine = broken.filter(pl.col("attack") == name)
        alone = int((mine["broken_by"].list.len() == 1).sum())
        counts.append(AttackCount(name, standing, len(mine), alone, seconds.get(name, 0.0)))
        standing -= len(mine)
    return tuple(counts)
