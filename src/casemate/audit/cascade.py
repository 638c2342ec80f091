"""The cascade: every image runs through the stages in order and leaves when it has a verdict."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from casemate import rng
from casemate.attacks import Attack
from casemate.audit.proofs import Proof, Proved, prove
from casemate.audit.verdict import Block, Seconds
from casemate.errors import CasemateError, Contradiction, first_line
from casemate.gradients import Engine
from casemate.losses import Labels, Logits, margin
from casemate.threat import Images, Threat

# Told the name of each stage before it runs, and the number of images it will run on.
StageCallback = Callable[[str, int], None]


@dataclass(frozen=True)
class Stage:
    """An attack, and the name it goes by in the verdicts.

    With `within` it runs on those standing images alone whose margin the stages before it have brought down to this
    share of what it was on the clean image: where a long search pays.
    """

    name: str
    attack: Attack
    within: float = 1.0

    def takes(self, clean: Logits, worst: Logits, y: Labels) -> Bool[Tensor, "batch"]:
        """Which of the images it runs on, by their logits clean and at the worst point found so far."""
        return margin(worst, y) >= self.within * margin(clean, y)


@dataclass(frozen=True, eq=False)
class Attempt:
    """What one stage made of n images: its points, the classifier's own logits there, and whether they break it."""

    x_adv: Images
    logits: Logits
    broke: Bool[Tensor, "batch"]


def run_block(
    engine: Engine,
    x: Images,
    y: Labels,
    index: Int64[Tensor, "batch"],
    threat: Threat,
    stages: Sequence[Stage],
    seed: int,
    progress: StageCallback | None = None,
    proofs: Sequence[Proof] = (),
) -> Block:
    """The verdicts of the images x, which stand at `index` in their data set, and the facts behind them, on the CPU.

    Each stage is tried on the images that the stages before it left standing, or those of them that it `takes`. The
    images it breaks are then tried by the stages after it too, so that which stages break an image, and which images
    only one stage breaks, is known exactly. What an image gets depends on the seed, its index and itself alone, not on
    the block it is in.

    What an early one of the `proofs` certifies is attacked by the first stage alone, as a check of the proof; the
    others are tried on what stands at the end. Raises `CasemateError` naming the stage whose attack failed or left the
    threat model, and `Contradiction` naming an image that is both proved and broken.
    """
    start = time.perf_counter()
    keys = rng.image_keys(seed, index)
    clean = engine.logits(x, keys=keys)
    clean_seconds = time.perf_counter() - start
    proved = Proved.nothing(proofs, y)
    search = _Search(engine, x, y, index, threat, tuple(stages), keys, clean, proved, progress)
    search.prove(proofs, early=True)
    seconds = search.cascade()
    search.prove(proofs, early=False)
    start = time.perf_counter()
    search.attribute()
    attribution = time.perf_counter() - start
    return Block(
        index=index.cpu(),
        label=y.cpu(),
        prediction=clean.argmax(dim=1).cpu(),
        confidence=_confidence(clean),
        stages=tuple(stage.name for stage in stages),
        broke=search.broke.cpu(),
        x_adv=search.x_adv.cpu(),
        adversarial_prediction=search.logits.argmax(dim=1).cpu(),
        adversarial_confidence=_confidence(search.logits),
        distance=threat.measure(search.x_adv, x).cpu(),
        margin=-margin(search.logits, y).double().cpu(),
        certifiers=proved.names,
        proved_by=proved.by.cpu(),
        proved_margin=proved.margin.cpu(),
        seconds=Seconds(clean_seconds, seconds, attribution, proved.seconds),
    )


def in_turn(
    engine: Engine, x: Images, y: Labels, threat: Threat, stages: Sequence[Stage], seed: int
) -> Iterator[Bool[Tensor, "batch"]]:
    """Which images stand at first, then after each stage, run on the images that those before it left standing.

    The images are the first of their data set. What stands at the end stands after `run_block` with the same seed,
    which costs more, for it also tries every stage on what an earlier one broke.
    """
    index = torch.arange(len(x), device=x.device)
    keys = rng.image_keys(seed, index)
    clean = engine.logits(x, keys=keys)
    worst = clean.clone()
    standing = clean.argmax(dim=1) == y
    yield standing.clone()
    for stage in stages:
        at = (standing & stage.takes(clean, worst, y)).nonzero().squeeze(1)
        if len(at):
            found = attempt(engine, stage, x[at], y[at], index[at], threat, keys[at])
            standing[at] = ~found.broke
            worse = margin(found.logits, y[at]) > margin(worst[at], y[at])
            worst[at[worse]] = found.logits[worse]
        yield standing.clone()


class _Search:
    """The stages at work on one block: `x_adv` and `logits` are the worst point found for each image so far."""

    def __init__(
        self,
        engine: Engine,
        x: Images,
        y: Labels,
        index: Int64[Tensor, "batch"],
        threat: Threat,
        stages: tuple[Stage, ...],
        keys: rng.Keys,
        clean: Logits,
        proved: Proved,
        progress: StageCallback | None,
    ) -> None:
        self.engine, self.x, self.y, self.index, self.threat = engine, x, y, index, threat
        self.stages, self.keys, self.proved, self.progress = stages, keys, proved, progress
        self.correct = clean.argmax(dim=1) == y
        self.clean, self.x_adv, self.logits = clean, x.clone(), clean.clone()
        self.broke = torch.zeros(len(x), len(stages), dtype=torch.bool, device=x.device)

    def prove(self, proofs: Sequence[Proof], *, early: bool) -> None:
        """The certifiers before or after the attacks, on what stands."""
        open_ = self.correct & ~self.broke.any(dim=1)
        prove(self.proved, proofs, early, self.engine, self.x, self.y, self.threat, self.keys, open_, self._tell)

    def cascade(self) -> dict[str, float]:
        """Every stage on what those before it left standing; returns the seconds of each."""
        seconds: dict[str, float] = {}
        for place, stage in enumerate(self.stages):
            start = time.perf_counter()
            standing = self.correct & ~self.broke.any(dim=1)
            # The first stage, the cheapest, is tried on what is proved as well: it must break none of it.
            open_ = standing if place == 0 else standing & ~self.proved.holds
            at = (open_ & stage.takes(self.clean, self.logits, self.y)).nonzero().squeeze(1)
            if len(at):
                found = self._run(place, at, stage.name)
                worse = found.broke | (margin(found.logits, self.y[at]) > margin(self.logits[at], self.y[at]))
                self.x_adv[at[worse]], self.logits[at[worse]] = found.x_adv[worse], found.logits[worse]
                self._refuse_contradiction(place)
            seconds[stage.name] = time.perf_counter() - start
        return seconds

    def attribute(self) -> None:
        """Every stage on what an earlier one broke."""
        broken = self.broke.any(dim=1)
        first = self.broke.int().argmax(dim=1)
        for place, stage in enumerate(self.stages):
            at = (broken & (first < place)).nonzero().squeeze(1)
            if len(at):
                self._run(place, at, f"{stage.name} on broken images")

    def _refuse_contradiction(self, place: int) -> None:
        both = (self.broke[:, place] & self.proved.holds).nonzero().flatten()
        if len(both):
            at = int(both[0])
            certifier = self.proved.names[int(self.proved.by[at])]
            raise Contradiction(
                f"image {int(self.index[at])} is certified by {certifier} and broken by {self.stages[place].name}: "
                "one of the two is wrong, so please report it"
            )

    def _tell(self, doing: str, active: int) -> None:
        if self.progress is not None:
            self.progress(doing, active)

    def _run(self, place: int, at: Int64[Tensor, "some"], doing: str) -> Attempt:
        self._tell(doing, len(at))
        x, y, index, keys = self.x[at], self.y[at], self.index[at], self.keys[at]
        found = attempt(self.engine, self.stages[place], x, y, index, self.threat, keys)
        self.broke[at, place] = found.broke
        return found


def attempt(
    engine: Engine,
    stage: Stage,
    x: Images,
    y: Labels,
    index: Int64[Tensor, "batch"],
    threat: Threat,
    keys: rng.Keys,
) -> Attempt:
    """Run one stage and judge its points by the classifier's own logits; the attack is not asked what it broke.

    `keys` are the images' own; the attack draws from keys folded with the name of the stage. For a randomised
    classifier the draw that decides is that of the images' own keys, the same for every attack and for `check`.
    """
    try:
        x_adv = stage.attack(engine, x, y, threat, keys=rng.fold(keys, stage.name))
    except CasemateError as error:
        raise CasemateError(f"the attack {stage.name} stopped: {error}") from error
    except Exception as error:
        reason = first_line(error)
        raise CasemateError(f"the attack {stage.name} failed with {type(error).__name__}: {reason}") from error
    _refuse_invalid(stage, x_adv, x, index, threat)
    # The layout of a fresh copy, which is the one the stored bytes will be read back into: another layout may choose
    # other kernels, which round differently.
    x_adv = x_adv.detach().clone(memory_format=torch.contiguous_format)
    logits = engine.logits(x_adv, keys=keys)
    return Attempt(x_adv, logits, logits.argmax(dim=1) != y)


def _refuse_invalid(stage: Stage, x_adv: object, x: Images, index: Int64[Tensor, "batch"], threat: Threat) -> None:
    """A point that is no image of the threat model is a bug of the attack, and its verdicts cannot be trusted."""
    found, wanted = _kind(x_adv), _kind(x)
    if not isinstance(x_adv, Tensor) or found != wanted:
        raise CasemateError(f"the attack {stage.name} returned {found}, not {wanted}: this is a bug in it")
    inside = threat.contains(x_adv, x)
    if inside.all():
        return
    first = int((~inside).nonzero()[0])
    point = x_adv[first]
    if not point.isfinite().all():
        fault = "holds NaN or infinite values"
    elif point.min() < 0 or point.max() > 1:
        fault = f"runs from {float(point.min()):g} to {float(point.max()):g}, outside [0, 1]"
    else:
        distance = float(threat.measure(x_adv[first : first + 1], x[first : first + 1])[0])
        fault = f"is {distance:.9g} away, outside {threat}"
    raise CasemateError(f"what the attack {stage.name} made of image {int(index[first])} {fault}: this is a bug in it")


def _kind(value: object) -> str:
    return f"{value.dtype} {list(value.shape)} on {value.device}" if isinstance(value, Tensor) else type(value).__name__


def _confidence(logits: Logits) -> Float64[Tensor, "batch"]:
    """The softmax of the largest logit."""
    return logits.double().softmax(dim=1).amax(dim=1).cpu()
