"""The audit: a verdict for every image, stored with its evidence as it is found, and the bracket around them."""

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from casemate import checkpoint, files
from casemate.audit import presets
from casemate.audit.cascade import Stage, run_block
from casemate.audit.curves import (
    MAX_IMAGES,
    accuracy_against_eps,
    accuracy_against_steps,
    loss_paths,
    loss_surfaces,
)
from casemate.audit.manifest import describe_run, device_of
from casemate.audit.proofs import PROOFS, Proof, proofs_by_names, usable
from casemate.audit.refusals import refuse_sources, refuse_unfit, settle_search
from casemate.audit.remedies import BySource, Plan, keep, kept, mended
from casemate.audit.store import Store
from casemate.audit.summary import Summary, count_verdicts, summarise
from casemate.audit.symptoms.answers import answers_probabilities
from casemate.audit.verdict import VERDICTS
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
    sources: Mapping[str, nn.Module] = MappingProxyType({}),
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
    nothing about the classifier are left out, and the run says why. `sources` are other classifiers of the same
    images by name, undefended or robust ones: adversarial images of theirs are tried on this one, and their gradient is
    a way where its own is of no use. `spec`, `weights`, `card` and `command` say in the
    run where the model came from and how the audit was called; `check` opens `spec` again. Blocks of `block_size`
    images are stored one at a time, so a killed audit loses the block it is in and `resume` does what is missing. Which
    verdict an image gets depends on the seed, its index and itself, not on `block_size`, `batch_size` or resuming.
    `curves` adds accuracy against eps and loss paths for the report. `diagnosis` asks first what in the evaluation
    itself says that its attacks cannot be believed, and applies what remedies it knows (`casemate.audit.remedies`), so
    that a classifier which answers with probabilities, draws in secret or hides its gradient is attacked all the same;
    a resumed run keeps the remedies of its first session, or none. `progress` is told before each stage.

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
    device = device_of(model)
    first_images = data.images[:MAX_IMAGES].to(device), data.labels[:MAX_IMAGES].to(device)

    def engine_by(plan: Plan, draws: int | None = None) -> Engine:
        return plan.engine(model, precision=precision, batch_size=batch_size, draws=draws)

    plan = _first_plan(model, data, run, earlier, sources, diagnosis=diagnosis)
    engine = engine_by(plan, earlier.get("draws"))
    n_logits = refuse_unfit(engine, data)
    refuse_sources(plan, data, n_logits)
    cascade = presets.by_name(preset)(threat, n_logits) if stages is None else tuple(stages)
    _refuse_cascade(cascade, block_size)
    chosen = proofs_by_names(PROOFS[preset]) if proofs is None else tuple(proofs)
    _refuse_namesakes(chosen)
    teller = _Teller(len(data), progress)
    is_diagnosed = diagnosis and not earlier
    if not is_diagnosed:
        settle_search(engine, data)
    # A diagnosis takes minutes: whatever can be refused is refused by now, and nobody else has the folder.
    with files.claimed(run):
        found = None
        if is_diagnosed:
            found = mended(model, engine_by, *first_images, threat, seed, start=plan, progress=teller.tell)
            plan, engine = found.plan, engine_by(found.plan)
            settle_search(engine, data)
        judged = _usable(engine, data, threat, chosen)
        names = {stage.name for stage in cascade}
        cascade = (*cascade, *(stage for stage in plan.stages(threat) if stage.name not in names))
        manifest = describe_run(
            engine,
            data,
            threat,
            cascade,
            judged,
            plan,
            seed=seed,
            preset=preset if stages is None else None,
            batch_size=batch_size,
            spec=spec,
            weights=weights,
            sha256=checkpoint.fingerprint(model),
            card=card or {},
            command=command,
        )
        if found is not None:
            files.write_json(run / "diagnosis.json", found.as_json())
            keep(run, plan)
        store.begin(manifest, resume=resume)
        _copy_training_log(spec, run)
        session = _Session(store, engine, data, threat, seed, teller)
        session.run_blocks(cascade, [proof for proof, reason in judged if reason is None], block_size)
        if curves:
            session.draw(*first_images)
        summary = summarise(store)
        files.write_json(run / "summary.json", summary.as_json())
        store.finish()
    return summary


@dataclass
class _Teller:
    """Tells what is being done, and with it how many of the `n` images have which verdict."""

    n: int
    progress: Callable[[Progress], None] | None
    verdicts: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(VERDICTS, 0))

    def tell(self, doing: str, active: int) -> None:
        if self.progress is not None:
            self.progress(Progress(sum(self.verdicts.values()), self.n, self.verdicts, doing, active))


@dataclass(frozen=True)
class _Session:
    """What every part of one call of `audit` needs."""

    store: Store
    engine: Engine
    data: Dataset
    threat: Threat
    seed: int
    teller: _Teller

    def run_blocks(self, stages: Sequence[Stage], proofs: Sequence[Proof], block_size: int) -> None:
        """Give a verdict to the images that have none yet."""
        device = device_of(self.engine.model)
        counts = Counter(count_verdicts(self.store.verdicts()))
        for at in self.store.missing(len(self.data)).split(block_size):
            self.teller.verdicts = dict(counts)
            if len(at):
                x, y = self.data.images[at].to(device), self.data.labels[at].to(device)
                index = at.to(device)
                block = run_block(self.engine, x, y, index, self.threat, stages, self.seed, self.teller.tell, proofs)
                self.store.write(block)
                counts.update(count_verdicts(block.verdicts()))
        self.teller.verdicts = dict(counts)
        self.teller.tell("all images have a verdict", 0)

    def draw(self, x: Images, y: Labels) -> None:
        """Write curves.json where it is not there yet."""
        path = self.store.run / "curves.json"
        if path.exists():
            return
        found = {
            "accuracy_against_eps": accuracy_against_eps(self.engine, x, y, self.threat, self.seed, self.teller.tell)
        }
        for name, measure in (
            ("accuracy_against_steps", accuracy_against_steps),
            ("loss_surfaces", loss_surfaces),
            ("loss_paths", loss_paths),
        ):
            self.teller.tell(name.replace("_", " "), len(x))
            found[name] = measure(self.engine, x, y, self.threat, self.seed)
        files.write_json(path, found)


def _first_plan(
    model: nn.Module,
    data: Dataset,
    run: Path,
    earlier: Mapping[str, Any],
    sources: Mapping[str, nn.Module],
    *,
    diagnosis: bool,
) -> Plan:
    """The plan of the earlier session of the run; in a new one, what has to be known before the first question."""
    device = device_of(model)
    given = tuple(BySource(name, checkpoint.fingerprint(source), source) for name, source in sources.items())
    if not earlier:
        return Plan(diagnosis and answers_probabilities(model, data.images[:2].to(device)), sources=given)
    known = kept(run, device) | {source.sha256: source.network for source in given}
    plan = Plan.from_json(earlier["remedies"], known)
    if stranger := next((source for source in given if source not in plan.sources), None):
        raise CasemateError(f"{run} cannot be resumed: it does not transfer from {stranger.name}")
    return plan


def _refuse_namesakes(proofs: Sequence[Proof]) -> None:
    names = [proof.name for proof in proofs]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise CasemateError(f"two certifiers of the audit are called {twice!r}: give each a name of its own")


def _usable(engine: Engine, data: Dataset, threat: Threat, proofs: Sequence[Proof]) -> list[tuple[Proof, str | None]]:
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
