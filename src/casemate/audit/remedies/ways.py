"""The ways to a gradient that an audit can take where a classifier's own misleads, as values that a run records."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn

from casemate.audit.remedies.identity import IdentityUpTo, PassedThrough
from casemate.audit.remedies.scores import FromScores
from casemate.audit.remedies.smoothed import Smoothed
from casemate.audit.remedies.undeclared import without_surrogates
from casemate.defences.learned import LearnedSurrogate
from casemate.errors import CasemateError


@dataclass(frozen=True)
class Own:
    """The classifier's own gradient, through the surrogates that its layers declare."""

    def stand_in(self, model: nn.Module) -> nn.Module | None:
        return None

    def __str__(self) -> str:
        return "its own gradient"


@dataclass(frozen=True)
class Plain:
    """What autograd makes of the classifier, past the surrogates that its layers declare."""

    def stand_in(self, model: nn.Module) -> nn.Module:
        return without_surrogates(model)

    def __str__(self) -> str:
        return "autograd's gradient, without the declared surrogates"


@dataclass(frozen=True)
class UpTo:
    """All that comes before the submodule `name` is taken for the identity; `whole` as in `IdentityUpTo`."""

    name: str
    whole: bool

    def stand_in(self, model: nn.Module) -> nn.Module:
        return IdentityUpTo(model, self.name, whole=self.whole)

    def __str__(self) -> str:
        return f"the gradient of the submodule {self.name!r}, and the identity for what comes before it"


@dataclass(frozen=True)
class Through:
    """The submodules `names`, whose own gradients are wrong, are taken for the identity."""

    names: tuple[str, ...]

    def stand_in(self, model: nn.Module) -> nn.Module:
        return PassedThrough(model, self.names)

    def __str__(self) -> str:
        return f"the identity for the gradient of {', '.join(map(repr, self.names))}"


@dataclass(frozen=True)
class Learned:
    """The submodules `names` answer themselves, and the gradient is that of networks that learnt to answer as they do.

    `taught` holds those networks in the order of the names, and `sha256` says which they are.
    """

    names: tuple[str, ...]
    sha256: str
    taught: nn.ModuleList | None = field(default=None, repr=False, compare=False)

    def stand_in(self, model: nn.Module) -> nn.Module:
        if self.taught is None:
            raise _absent(self)
        stand_in = copy.deepcopy(model)
        for name, network in zip(self.names, self.taught, strict=True):
            stand_in.set_submodule(name, LearnedSurrogate(stand_in.get_submodule(name), network))
        return stand_in

    def __str__(self) -> str:
        return f"the gradient of what learnt to answer as {', '.join(map(repr, self.names))}"


@dataclass(frozen=True)
class Nearby:
    """The gradient averaged over points at a standard deviation of `sigma`."""

    sigma: float

    def stand_in(self, model: nn.Module) -> nn.Module:
        return Smoothed(model, self.sigma)

    def __str__(self) -> str:
        return f"its own gradient, averaged over points nearby (deviation {self.sigma:.2g})"


@dataclass(frozen=True)
class BySource:
    """The gradient of another classifier, `source`, which reports call `name`; `sha256` says which it is.

    Each point is judged by the classifier's own logits: a transfer that sees how far it has come.
    """

    name: str
    sha256: str
    source: nn.Module | None = field(default=None, repr=False, compare=False)

    @property
    def network(self) -> nn.Module:
        if self.source is None:
            raise _absent(self)
        return self.source

    def stand_in(self, model: nn.Module) -> nn.Module:
        return self.network

    def __str__(self) -> str:
        return f"the gradient of {self.name}"


@dataclass(frozen=True)
class Estimated:
    """A gradient from scores alone, of `n_pairs` pairs of points at `sigma`."""

    sigma: float
    n_pairs: int

    def stand_in(self, model: nn.Module) -> nn.Module:
        return FromScores(model, self.sigma, self.n_pairs)

    def __str__(self) -> str:
        return f"a gradient estimated from {2 * self.n_pairs} scores (deviation {self.sigma:.2g})"


Way = Own | Plain | UpTo | Through | Learned | Nearby | BySource | Estimated
_KINDS: dict[str, Callable[..., Way]] = {
    kind.__name__: kind for kind in (Own, Plain, UpTo, Through, Learned, Nearby, BySource, Estimated)
}
# Networks by their fingerprints: those that ways name and a run keeps elsewhere.
Known = Mapping[str, nn.Module]


def as_json(way: Way) -> dict[str, Any]:
    values = {field.name: getattr(way, field.name) for field in fields(way) if field.compare}
    return {"kind": type(way).__name__, **values}


def from_json(stored: Mapping[str, Any], known: Known) -> Way:
    """The way that `as_json` wrote, with its network where that is `known`; raises `CasemateError` where it is none."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    try:
        kind = _KINDS[str(values.pop("kind"))]
        network = known.get(str(values.get("sha256")))
        if kind is Learned:
            values["taught"] = network
        elif kind is BySource:
            values["source"] = network
        return kind(**values)
    except (KeyError, TypeError) as error:
        raise CasemateError(f"the run names no known way to a gradient: {error}") from None


def _absent(way: Way) -> CasemateError:
    return CasemateError(f"the run follows {way}, which is not at hand: give it again, or make the run again")
