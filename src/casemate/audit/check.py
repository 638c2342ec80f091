"""The check of a run: every claim is replayed on the classifier in full precision; nothing stored is trusted."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from casemate import checkpoint, files, threat
from casemate.audit.proofs import again
from casemate.audit.remedies.plan import Plan
from casemate.audit.replay import Failure, Subject, replay
from casemate.audit.store import Store
from casemate.audit.summary import summarise
from casemate.audit.verdict import BROKEN
from casemate.data import Dataset, load
from casemate.errors import CasemateError
from casemate.gradients import Engine


@dataclass(frozen=True)
class CheckResult:
    """What a check found: `n` images audited, `replayed` adversarial images among them, and the claims that fail."""

    run: str
    n: int
    replayed: int
    failures: tuple[Failure, ...]

    @property
    def ok(self) -> bool:
        return not self.failures

    def as_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "ok": self.ok,
            "n": self.n,
            "replayed": self.replayed,
            "failures": [asdict(failure) for failure in self.failures],
        }


def check(
    run: Path,
    *,
    model: nn.Module | None = None,
    data: Dataset | None = None,
    device: torch.device | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckResult:
    """Replay every claim of the run in the folder `run`, on the model and the images that its `run.json` names.

    Checked are: the fingerprints of model and data; for every image that it has one verdict, and that the classifier
    is wrong on it where it is called misclassified and right elsewhere; for every broken one, that its adversarial
    image is stored unchanged, lies in the threat model and is misclassified; for every certified one, that its
    certifier proves it again; and that the summary counts what the store holds. That an image is unresolved claims
    nothing more. `model` and `data` stand in for those of the run and
    must have their fingerprints. `device` is where to replay. `progress` is told how many of n images are done.

    Claims that fail are returned, not raised. Raises `CasemateError` where nothing can be replayed: run.json is absent
    or damaged, or the model or the data it names cannot be opened.
    """
    store = Store(run)
    subject, n, failures = _open(store, model, data, device, batch_size)
    if failures:
        return CheckResult(str(run), n, 0, tuple(failures))
    seen: Counter[int] = Counter()
    replayed = 0
    for part in store.parts():
        try:
            verdicts = store.verdicts_of(part)
            seen.update(index for index in verdicts["index"] if index is not None)
            failures += [
                Failure(index, f"{part} holds a verdict for it, and the run has images 0 to {n - 1}")
                for index in verdicts["index"]
                if index is None or not 0 <= index < n
            ]
            verdicts = verdicts.filter(verdicts["index"].is_between(0, n - 1))
            failures += replay(subject, verdicts, store.evidence_of(part))
            replayed += int((verdicts["verdict"] == BROKEN).sum())
        except CasemateError as error:
            failures.append(Failure(None, str(error)))
        if progress is not None:
            progress(seen.total(), n)
    failures += _check_counts(store, seen, n)
    return CheckResult(str(run), n, replayed, tuple(failures))


def _open(
    store: Store,
    model: nn.Module | None,
    data: Dataset | None,
    device: torch.device | None,
    batch_size: int | None,
) -> tuple[Subject, int, list[Failure]]:
    """What the claims are replayed on, the number of images, and whether it is not what the run was made on."""
    manifest = store.manifest()
    try:
        spec, weights, sha256 = (manifest["model"][key] for key in ("spec", "weights", "sha256"))
        name, split, n, fingerprint = (manifest["data"][key] for key in ("name", "split", "n", "fingerprint"))
        ball, seed = threat.parse_any(manifest["threat"]), int(manifest["seed"])
        # What the attacks followed does not matter to what they found.
        plan = Plan.from_json(manifest["remedies"], known={})
        stages = [attack["name"] for attack in manifest["attacks"]]
        certifiers = {
            proof["name"]: again(proof["settings"]) for proof in manifest["certifiers"] if proof["unusable"] is None
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise CasemateError(f"{store.run / 'run.json'} is damaged: it lacks {error}") from None
    if model is None and not spec:
        raise CasemateError(f"{store.run / 'run.json'} does not say where its model is: give the model to check")
    if model is None:
        model = checkpoint.open_model(spec, weights=None if weights is None else Path(weights)).model
    if device is not None:
        model.to(device)
    if data is None:
        data = load(name, split, limit=n)
    failures = []
    if (found := checkpoint.fingerprint(model)) != sha256:
        failures.append(Failure(None, f"the run was made on a model with fingerprint {sha256}, and this is {found}"))
    if data.fingerprint != fingerprint or len(data) != n:
        failures.append(Failure(None, f"the images of {name}[{split}] are not the {n} images the run was made on"))
    engine = Engine(plan.answering(model), precision="float32", batch_size=batch_size)
    return Subject(engine, data, ball, seed, stages, certifiers), n, failures


def _check_counts(store: Store, seen: Counter[int], n: int) -> Iterator[Failure]:
    """Every image has one verdict, and the summary says what the verdicts add up to."""
    missing = [index for index in range(n) if not seen[index]]
    if missing:
        yield Failure(
            missing[0],
            f"it is the first of {len(missing)} images without a verdict: the audit did not finish, so resume it",
        )
    for index, times in seen.items():
        if times > 1:
            yield Failure(index, f"it has {times} verdicts")
    if missing:
        return
    try:
        stored = files.read_json(store.run / "summary.json", "the check of the run's summary")
        found = summarise(store).as_json()
    except CasemateError as error:
        yield Failure(None, str(error))
        return
    for key in ("n", "verdicts", "clean_accuracy", "attacked_accuracy", "certified_accuracy"):
        if not isinstance(stored, dict) or stored.get(key) != found[key]:
            yield Failure(None, f"the {key} of summary.json is not {found[key]}, which is what the verdicts say")
            return
    if not _same_interval(stored.get("robust_accuracy_interval"), found["robust_accuracy_interval"]):
        yield Failure(None, f"the interval in summary.json is not {found['robust_accuracy_interval']}")
    for kind, did in (("attacks", "tried and broke"), ("certifiers", "tried and proved")):
        if _counts(stored.get(kind)) != _counts(found[kind]):
            yield Failure(None, f"what summary.json says the {kind} {did} is not what the verdicts say")


def _same_interval(stored: Any, found: list[float]) -> bool:
    """Equal up to the rounding of another version of scipy."""
    return (
        isinstance(stored, list)
        and len(stored) == 2
        and all(isinstance(a, float) and math.isclose(a, b, abs_tol=1e-9) for a, b in zip(stored, found, strict=True))
    )


def _counts(attacks: Any) -> Any:
    """The attacks of a summary without their seconds, which nothing can replay."""
    if not isinstance(attacks, list) or not all(isinstance(attack, dict) for attack in attacks):
        return None
    return [{key: value for key, value in attack.items() if key != "seconds"} for attack in attacks]
