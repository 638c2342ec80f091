"""The proofs of an audit: which certifiers run on a block, before and after the attacks, and what they prove."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from casemate import rng
from casemate.bounds import (
    CROWN,
    CROWNIBP,
    IBP,
    AlphaCROWN,
    BranchAndBound,
    ByZonotopes,
    Certificate,
    Certifier,
    FullAlphaCROWN,
)
from casemate.errors import CasemateError, first_line
from casemate.gradients import Engine
from casemate.losses import Labels
from casemate.threat import Images, Threat


@dataclass(frozen=True)
class Proof:
    """A certifier and the name it goes by in the verdicts; an `early` one is cheap enough to run before the attacks."""

    name: str
    certifier: Certifier
    early: bool = False


# By the names of the command line, from the cheapest to the tightest.
CERTIFIERS: dict[str, type[IBP | CROWN | ByZonotopes]] = {
    "ibp": IBP,
    "crown-ibp": CROWNIBP,
    "crown": CROWN,
    "alpha-crown": AlphaCROWN,
    "full-alpha-crown": FullAlphaCROWN,
    "branch-and-bound": BranchAndBound,
    "zonotope": ByZonotopes,
}
# Those that take a second an image and more are for who asks for them.
PROOFS: dict[str, tuple[str, ...]] = {
    "quick": ("ibp",),
    "standard": ("ibp", "crown-ibp"),
    "thorough": ("ibp", "crown-ibp", "crown", "alpha-crown"),
}


def proofs_by_names(names: Sequence[str]) -> tuple[Proof, ...]:
    """The certifiers called `names`; raises `CasemateError` listing the known ones. Intervals are early."""
    for name in names:
        if name not in CERTIFIERS:
            raise CasemateError(f"unknown certifier {name!r}: choose among {', '.join(CERTIFIERS)}")
    return tuple(Proof(CERTIFIERS[name].name, CERTIFIERS[name](), early=name == "ibp") for name in names)


@dataclass(eq=False)
class Proved:
    """What was proved of n images: by which of the certifiers, if any, and the margin that it proves."""

    names: tuple[str, ...]
    by: Int64[Tensor, "batch"]
    margin: Float64[Tensor, "batch"]
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def nothing(cls, proofs: Sequence[Proof], like: Labels) -> "Proved":
        none = torch.full_like(like, -1)
        return cls(tuple(proof.name for proof in proofs), none, none.double())

    @property
    def holds(self) -> Bool[Tensor, "batch"]:
        return self.by >= 0


def prove(
    proved: Proved,
    proofs: Sequence[Proof],
    early: bool,
    engine: Engine,
    x: Images,
    y: Labels,
    threat: Threat,
    keys: rng.Keys,
    open_: Bool[Tensor, "batch"],
    tell: Callable[[str, int], None],
) -> None:
    """Run those of the `proofs` that are `early`, or the others, on images that are `open_`; note what they prove."""
    for place, proof in enumerate(proofs):
        if proof.early != early:
            continue
        start = time.perf_counter()
        at = (open_ & ~proved.holds).nonzero().squeeze(1)
        if len(at):
            tell(proof.name, len(at))
            found = _certificate(proof, engine, x[at], y[at], threat, rng.fold(keys[at], proof.name))
            proved.by[at[found.holds]] = place
            proved.margin[at[found.holds]] = found.margin[found.holds]
        proved.seconds[proof.name] = time.perf_counter() - start


def usable(engine: Engine, x: Images, y: Labels, threat: Threat, proofs: Sequence[Proof]) -> dict[str, str | None]:
    """For each proof by name None, or why its certifier knows nothing about this classifier and threat model."""
    reasons: dict[str, str | None] = {}
    for proof in proofs:
        try:
            _certificate(proof, engine, x[:1], y[:1], threat, rng.image_keys(0, torch.zeros_like(y[:1])))
            reasons[proof.name] = None
        except CasemateError as error:
            reasons[proof.name] = str(error)
    return reasons


def _certificate(proof: Proof, engine: Engine, x: Images, y: Labels, threat: Threat, keys: rng.Keys) -> Certificate:
    """Whatever a certifier raises is a `CasemateError` that names it."""
    try:
        return proof.certifier.certify(engine.model, x, y, threat, keys=keys)
    except CasemateError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise CasemateError(f"the certifier {proof.name} failed with {type(error).__name__}: {reason}") from error


def again(settings: dict[str, Any]) -> Certifier:
    """The certifier that a run was made with; raises `CasemateError` where it is none of ours."""
    kinds = {kind.__name__: kind for kind in CERTIFIERS.values()}
    kind = settings.get("kind")
    if kind not in kinds:
        raise CasemateError(f"the run was certified by {kind}, which this version does not have")
    return kinds[kind](**{key: value for key, value in settings.items() if key != "kind"})
