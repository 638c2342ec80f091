"""The replay of stored claims: what the rows of a block say, against what the classifier answers now."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from torch import Tensor

from casemate import rng
from casemate.audit.manifest import device_of
from casemate.audit.refusals import answers
from casemate.audit.verdict import BROKEN, CERTIFIED, MISCLASSIFIED, VERDICTS, decode
from casemate.bounds import Certifier
from casemate.data import Dataset
from casemate.gradients import Engine
from casemate.losses import Logits, margin
from casemate.threat import Images, Threat

Row = Mapping[str, Any]

# For confidences and margins, which another processor may round differently; what is wrong or right, inside or outside
# has no such room.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Failure:
    """A claim that does not hold; `index` is that of the image, None where it concerns the run as a whole."""

    index: int | None
    sentence: str


@dataclass(frozen=True, eq=False)
class Subject:
    """What claims are made about and replayed on; `stages` are the names of the attacks that ran.

    `certifiers` are those that ran, by name.
    """

    engine: Engine
    data: Dataset
    threat: Threat
    seed: int
    stages: Sequence[str]
    certifiers: Mapping[str, Certifier]

    def images(self, index: Sequence[int]) -> Images:
        return self.data.images[list(index)].to(device_of(self.engine.model))

    def logits(self, x: Images, index: Sequence[int]) -> Logits:
        """The answers that decided the verdicts: a randomised classifier draws what it drew in the audit."""
        return answers(self.engine, x, rng.image_keys(self.seed, torch.tensor(index, device=x.device))).cpu()


def replay(subject: Subject, verdicts: pl.DataFrame, evidence: pl.DataFrame) -> Iterator[Failure]:
    """The claims of one block that do not hold, one at most for each image; indices must be those of the data set."""
    rows = list(verdicts.iter_rows(named=True))
    stored: dict[int, list[Row]] = {}
    for item in evidence.iter_rows(named=True):
        stored.setdefault(item["index"], []).append(item)
    index = [row["index"] for row in rows]
    clean = subject.logits(subject.images(index), index) if rows else torch.empty(0, 2)
    claimed: list[tuple[Row, Tensor]] = []
    proved: list[Row] = []
    for row, logits in zip(rows, clean, strict=True):
        items = stored.pop(row["index"], [])
        fault = _fault_without_attack(row, int(subject.data.labels[row["index"]]), logits) or (
            _fault_of_evidence(row, items, subject) if row["verdict"] == BROKEN else _fault_of_surplus(row, items)
        )
        if fault is not None:
            yield Failure(row["index"], fault)
        elif row["verdict"] == BROKEN:
            claimed.append((row, decode(items[0]["image"], items[0]["shape"])))
        elif row["verdict"] == CERTIFIED:
            proved.append(row)
    for unclaimed in stored:
        yield Failure(unclaimed, "an adversarial image is stored for it, and its block has no verdict for it")
    yield from _replay_broken(subject, claimed)
    yield from _replay_certified(subject, proved)


def _replay_broken(subject: Subject, claimed: Sequence[tuple[Row, Tensor]]) -> Iterator[Failure]:
    if not claimed:
        return
    index = [row["index"] for row, _ in claimed]
    x = subject.images(index)
    x_adv = torch.stack([image for _, image in claimed]).to(x.device)
    inside, distance = subject.threat.contains(x_adv, x).tolist(), subject.threat.measure(x_adv, x).tolist()
    # What is outside may hold anything, so the classifier is shown the clean image in its place.
    shown = torch.where(torch.tensor(inside, device=x.device)[:, None, None, None], x_adv, x)
    logits = subject.logits(shown, index)
    for place, (row, _) in enumerate(claimed):
        if not inside[place]:
            fault: str | None = f"its adversarial image is {distance[place]:.9g} away, outside {subject.threat}"
        else:
            fault = _fault_at_evidence(row, logits[place], distance[place])
        if fault is not None:
            yield Failure(row["index"], fault)


def _replay_certified(subject: Subject, proved: Sequence[Row]) -> Iterator[Failure]:
    """Every proof is made again, by the certifier that is said to have made it."""
    for name in dict.fromkeys(row["certifier"] for row in proved):
        rows = [row for row in proved if row["certifier"] == name]
        if name not in subject.certifiers:
            yield from (
                Failure(row["index"], f"it is said to be certified by {name!r}, which is not among the run's")
                for row in rows
            )
            continue
        index = [row["index"] for row in rows]
        x = subject.images(index)
        y = torch.tensor([row["label"] for row in rows], device=x.device)
        keys = rng.fold(rng.image_keys(subject.seed, torch.tensor(index, device=x.device)), name)
        found = subject.certifiers[name].certify(subject.engine.model, x, y, subject.threat, keys=keys)
        for row, holds, least in zip(rows, found.holds.tolist(), found.margin.tolist(), strict=True):
            if not holds:
                yield Failure(row["index"], f"{name} does not certify it: it proves a margin of {least:.4g}")
            elif not _close(row["proved_margin"], least):
                yield Failure(
                    row["index"], f"{name} proves a margin of {least:.4g}, and the run says {row['proved_margin']}"
                )


def _fault_without_attack(row: Row, label: int, logits: Tensor) -> str | None:
    prediction, verdict = int(logits.argmax()), row["verdict"]
    if verdict not in VERDICTS:
        return f"its verdict is {verdict!r}, which is none of {', '.join(VERDICTS)}"
    if row["label"] != label:
        return f"its label is {label}, and the run says {row['label']}"
    if verdict == MISCLASSIFIED and prediction == label:
        return f"it is called misclassified, and the model says {prediction}, which is its label"
    if verdict != MISCLASSIFIED and prediction != label:
        return f"it is called {verdict}, and the model misclassifies it as {prediction} without an attack"
    if row["prediction"] != prediction:
        return f"the model says {prediction}, and the run says {row['prediction']}"
    if not _close(row["confidence"], _confidence(logits)):
        return f"the confidence of the model is {_confidence(logits):.4f}, and the run says {row['confidence']}"
    if verdict == MISCLASSIFIED and not _close(row["margin"], _margin(logits, label)):
        return f"its margin is {_margin(logits, label):.4g}, and the run says {row['margin']}"
    return None


def _fault_of_surplus(row: Row, items: Sequence[Row]) -> str | None:
    if items or row["evidence_sha256"] is not None:
        return f"it is called {row['verdict']}, and an adversarial image is stored for it"
    if row["attack"] is not None or row["broken_by"] != []:
        return f"it is called {row['verdict']}, and an attack is said to have broken it"
    if row["verdict"] != CERTIFIED and (row["certifier"] is not None or row["proved_margin"] is not None):
        return f"it is called {row['verdict']}, and a certifier is said to prove it"
    return None


def _fault_of_evidence(row: Row, items: Sequence[Row], subject: Subject) -> str | None:
    if len(items) != 1:
        return f"it is called broken, and {len(items) or 'no'} adversarial images are stored for it"
    content, shape = items[0]["image"], list(subject.data.images.shape[1:])
    if content is None or hashlib.sha256(content).hexdigest() != row["evidence_sha256"]:
        return "its adversarial image does not match its SHA-256: one of the two was changed"
    if items[0]["shape"] != shape or len(content) != 4 * math.prod(shape):
        return f"its adversarial image has shape {items[0]['shape']} in {len(content)} bytes, not float32 {shape}"
    broken_by = row["broken_by"] or []
    if row["attack"] not in subject.stages or broken_by[:1] != [row["attack"]]:
        return f"it is said to be broken by {row['attack']!r}, which is not the first of {broken_by}"
    if broken_by != [stage for stage in subject.stages if stage in broken_by]:
        return f"it is said to be broken by {broken_by}, which are not attacks of the run in their order"
    return None


def _fault_at_evidence(row: Row, logits: Tensor, distance: float) -> str | None:
    prediction, label = int(logits.argmax()), row["label"]
    if prediction == label:
        return (
            f"the model is right on its adversarial image: it says {label} by a margin of {_margin(logits, label):.4g}"
        )
    if row["adversarial_prediction"] != prediction:
        return f"the model says {prediction} on its adversarial image, the run says {row['adversarial_prediction']}"
    if not isinstance(row["distance"], float) or not math.isclose(row["distance"], distance, rel_tol=1e-9):
        return f"its adversarial image is {distance:.9g} away, and the run says {row['distance']}"
    pairs = (row["adversarial_confidence"], _confidence(logits)), (row["margin"], _margin(logits, label))
    for stored, found in pairs:
        if not _close(stored, found):
            return f"confidence or margin of the model at its adversarial image is {found:.4g}, the run says {stored}"
    return None


def _confidence(logits: Tensor) -> float:
    return float(logits.double().softmax(dim=0).max())


def _margin(logits: Tensor, label: int) -> float:
    return -float(margin(logits[None], torch.tensor([label]))[0])


def _close(stored: Any, found: float) -> bool:
    return isinstance(stored, float) and math.isclose(stored, found, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
