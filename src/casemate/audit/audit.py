"""The audit: a verdict for every image, stored with its evidence as it is found, and the bracket around them."""

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from casemate import files
from casemate.audit import presets
from casemate.audit.cascade import Stage, run_block
from casemate.audit.curves import MAX_IMAGES, N_PATHS, accuracy_against_eps, loss_paths
from casemate.audit.diagnosis import diagnose
from casemate.audit.manifest import describe_run, device_of
from casemate.audit.proofs import PROOFS, Proof, proofs_by_names, usable
from casemate.audit.refusals import refuse_unfit, settle_search
from casemate.audit.store import Store
from casemate.audit.summary import Summary, count_verdicts, summarise
from casemate.data import Dataset
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import Labels
from casemate.precision import Precision
from casemate.threat import Images, Threat


@dataclass(frozen=True)
class Progress:
    """How far an audit is: `done` of `n` images have a verdict, by kind in `verdicts`; `doing` runs on `active` now."""

    done: int
    n: int
    verdicts: Mapping[str, int]
    doing: str
    active: int


def audit(
    model: nn.Module,
    data: Dataset,
    threat: Threat,
    *,
    run: Path,
    preset: str = "standard",
    stages: Sequence[Stage] | None = None,
    proofs: Sequence[Proof] | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    batch_size: int | None = None,
    block_size: int = 256,
    resume: bool = False,
    curves: bool = True,
    diagnosis: bool = True,
    spec: str = "",
    weights: str | None = None,
    card: Mapping[str, Any] | None = None,
    command: str = "",
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Give every image of `data` a verdict under `threat`, stored in the folder `run`; return what was found.

    `stages` is a cascade of one's own in place of a `preset`, and `proofs` are certifiers of one's own; those that know
    nothing about the classifier are left out, and the run says why. `spec`, `weights`, `card` and `command` say in the
    run where the model came from and how the audit was called; `check` opens `spec` again. Blocks of `block_size`
    images are stored one at a time, so a killed audit loses the block it is in and `resume` does what is missing. Which
    verdict an image gets depends on the seed, its index and itself, not on `block_size`, `batch_size` or resuming.
    `curves` adds accuracy against eps and loss paths for the report; `diagnosis` adds what in the evaluation itself
    says that its attacks cannot be believed (`diagnose`). `progress` is told before each stage.

    Raises `CasemateError` before any gradient for what `refuse_unfit` refuses, for a folder that holds a run already
    or that another process is writing, and for a resumed run with other settings; later when a file cannot be written
    or an attack fails. Raises `Contradiction` for an image that is both proved and broken. The run can be resumed
    after that, after Ctrl-C and after being killed.
    """
    store = Store(run)
    earlier = store.earlier(resume=resume) or {}
    if precision == "auto":
        # Measured by the first session; measuring again might choose otherwise and mix two searches in one run.
        precision = earlier.get("precision", precision)
    engine = Engine(model, precision=precision, batch_size=batch_size, draws=earlier.get("draws"))
    n_logits = refuse_unfit(engine, data)
    cascade = presets.by_name(preset)(threat, n_logits) if stages is None else tuple(stages)
    _refuse_cascade(cascade, block_size)
    settle_search(engine, data)
    chosen = proofs_by_names(PROOFS[preset]) if proofs is None else tuple(proofs)
    judged = _usable(engine, data, threat, chosen)
    manifest = describe_run(
        engine,
        data,
        threat,
        cascade,
        judged,
        seed=seed,
        preset=preset if stages is None else None,
        batch_size=batch_size,
        spec=spec,
        weights=weights,
        card=card or {},
        command=command,
    )
    with files.claimed(run):
        store.begin(manifest, resume=resume)
        _copy_training_log(spec, run)
        session = _Session(store, engine, data, threat, seed, progress)
        session.run_blocks(cascade, [proof for proof, reason in judged if reason is None], block_size)
        if diagnosis:
            session.diagnose()
        if curves:
            session.draw()
        summary = summarise(store)
        files.write_json(run / "summary.json", summary.as_json())
        store.finish()
    return summary


@dataclass(frozen=True)
class _Session:
    """What every part of one call of `audit` needs."""

    store: Store
    engine: Engine
    data: Dataset
    threat: Threat
    seed: int
    progress: Callable[[Progress], None] | None

    def run_blocks(self, stages: Sequence[Stage], proofs: Sequence[Proof], block_size: int) -> None:
        """Give a verdict to the images that have none yet."""
        device = device_of(self.engine.model)
        counts = Counter(count_verdicts(self.store.verdicts()))
        for at in self.store.missing(len(self.data)).split(block_size):
            if len(at):
                x, y = self.data.images[at].to(device), self.data.labels[at].to(device)
                tell = partial(self.tell, dict(counts))
                block = run_block(self.engine, x, y, at.to(device), self.threat, stages, self.seed, tell, proofs)
                self.store.write(block)
                counts.update(count_verdicts(block.verdicts()))
        self.tell(dict(counts), "all images have a verdict", 0)

    def diagnose(self) -> None:
        """Write diagnosis.json where it is not there yet."""
        path = self.store.run / "diagnosis.json"
        if not path.exists():
            x, y, tell = self._first_images()
            files.write_json(path, diagnose(self.engine, x, y, self.threat, self.seed, tell))

    def draw(self) -> None:
        """Write curves.json where it is not there yet."""
        path = self.store.run / "curves.json"
        if path.exists():
            return
        x, y, tell = self._first_images()
        accuracy = accuracy_against_eps(self.engine, x, y, self.threat, self.seed, tell)
        tell("loss paths", N_PATHS)
        paths = loss_paths(self.engine, x, y, self.threat, self.seed)
        files.write_json(path, {"accuracy_against_eps": accuracy, "loss_paths": paths})

    def _first_images(self) -> tuple[Images, Labels, Callable[[str, int], None]]:
        device = device_of(self.engine.model)
        x, y = self.data.images[:MAX_IMAGES].to(device), self.data.labels[:MAX_IMAGES].to(device)
        return x, y, partial(self.tell, count_verdicts(self.store.verdicts()))

    def tell(self, counts: Mapping[str, int], doing: str, active: int) -> None:
        if self.progress is not None:
            self.progress(Progress(sum(counts.values()), len(self.data), counts, doing, active))


def _usable(engine: Engine, data: Dataset, threat: Threat, proofs: Sequence[Proof]) -> list[tuple[Proof, str | None]]:
    names = [proof.name for proof in proofs]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise CasemateError(f"two certifiers of the audit are called {twice!r}: give each a name of its own")
    device = device_of(engine.model)
    reasons = usable(engine, data.images[:1].to(device), data.labels[:1].to(device), threat, proofs)
    return [(proof, reasons[proof.name]) for proof in proofs]


def _refuse_cascade(stages: Sequence[Stage], block_size: int) -> None:
    if block_size < 1:
        raise CasemateError(f"the block size must be at least 1, not {block_size}")
    names = [stage.name for stage in stages]
    if not names:
        raise CasemateError("an audit needs at least one attack: choose a preset or give stages")
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise CasemateError(f"two attacks of the cascade are called {twice!r}: give each a name of its own")


def _copy_training_log(spec: str, run: Path) -> None:
    """Keep the training curve with the run, so that the report needs no other folder."""
    log = Path(spec) / "log.jsonl"
    if spec and log.is_file():
        with contextlib.suppress(OSError):
            files.write_bytes(run / "training.jsonl", log.read_bytes())
