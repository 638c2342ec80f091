"""The cascade: every image runs through the stages in order and leaves when it has a verdict."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from casemate import rng
from casemate.attacks import Attack
from casemate.audit.verdict import Block, Seconds
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import Labels, Logits, margin
from casemate.threat import Images, Threat

# Told the name of each stage before it runs, and the number of images it will run on.
StageCallback = Callable[[str, int], None]


@dataclass(frozen=True)
class Stage:
    """An attack, and the name it goes by in the verdicts."""

    name: str
    attack: Attack


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
) -> Block:
    """The verdicts of the images x, which stand at `index` in their data set, and the facts behind them.

    Each stage is tried on the images that the stages before it left standing. The images it breaks are then tried by
    the stages after it too, so that which stages break an image, and which images only one stage breaks, is known
    exactly. What an image gets depends on the seed, its index and itself alone, not on the block it is in.
    Raises `CasemateError` naming the stage whose attack failed or left the threat model.
    """
    start = time.perf_counter()
    keys = rng.image_keys(seed, index)
    clean = engine.logits(x, keys=keys)
    correct = clean.argmax(dim=1) == y
    clean_seconds = time.perf_counter() - start

    x_adv, logits = x.clone(), clean.clone()  # the worst point so far for each image
    broke = torch.zeros(len(x), len(stages), dtype=torch.bool, device=x.device)

    def run(place: int, mask: Bool[Tensor, "batch"], suffix: str = "") -> tuple[Int64[Tensor, "some"], Attempt] | None:
        at = mask.nonzero().squeeze(1)
        if not len(at):
            return None
        if progress is not None:
            progress(stages[place].name + suffix, len(at))
        found = attempt(engine, stages[place], x[at], y[at], index[at], threat, keys[at])
        broke[at, place] = found.broke
        return at, found

    seconds: dict[str, float] = {}
    for place, stage in enumerate(stages):
        start = time.perf_counter()
        result = run(place, correct & ~broke.any(dim=1))
        if result is not None:
            at, found = result
            worse = found.broke | (margin(found.logits, y[at]) > margin(logits[at], y[at]))
            x_adv[at[worse]], logits[at[worse]] = found.x_adv[worse], found.logits[worse]
        seconds[stage.name] = time.perf_counter() - start

    start = time.perf_counter()
    # One stage per image so far, or none: then the first is stage 0, which was tried on it already.
    first = broke.int().argmax(dim=1)
    for place in range(1, len(stages)):
        run(place, broke.any(dim=1) & (first < place), " on broken images")
    attribution = time.perf_counter() - start

    return Block(
        index=index,
        label=y,
        prediction=clean.argmax(dim=1),
        confidence=_confidence(clean),
        stages=tuple(stage.name for stage in stages),
        broke=broke,
        x_adv=x_adv,
        adversarial_prediction=logits.argmax(dim=1),
        adversarial_confidence=_confidence(logits),
        distance=threat.measure(x_adv, x),
        margin=-margin(logits, y).double(),
        seconds=Seconds(clean_seconds, seconds, attribution),
    )


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
        reason = next(iter(str(error).splitlines()), "no message")
        raise CasemateError(f"the attack {stage.name} failed with {type(error).__name__}: {reason}") from error
    _refuse_invalid(stage, x_adv, x, index, threat)
    # The layout of a fresh copy, which is the one the stored bytes will be read back into: another layout may choose
    # other kernels, which round differently.
    x_adv = x_adv.detach().clone(memory_format=torch.contiguous_format)
    logits = engine.logits(x_adv, keys=keys)
    return Attempt(x_adv, logits, logits.argmax(dim=1) != y)


def _refuse_invalid(stage: Stage, x_adv: object, x: Images, index: Int64[Tensor, "batch"], threat: Threat) -> None:
    """A point that is no image of the threat model is a bug of the attack, and its verdicts cannot be trusted."""
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape or x_adv.dtype != x.dtype:
        kind = f"{x_adv.dtype} {list(x_adv.shape)}" if isinstance(x_adv, Tensor) else f"a {type(x_adv).__name__}"
        raise CasemateError(
            f"the attack {stage.name} returned {kind} for images {x.dtype} {list(x.shape)}: this is a bug in it"
        )
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


def _confidence(logits: Logits) -> Float64[Tensor, "batch"]:
    """The softmax of the largest logit."""
    return logits.double().softmax(dim=1).amax(dim=1)
