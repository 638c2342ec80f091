"""The ways to a gradient that an audit can take where a classifier's own misleads, as values that a run records."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from casemate.audit.remedies.identity import IdentityUpTo, PassedThrough
from casemate.audit.remedies.scores import FromScores
from casemate.audit.remedies.smoothed import Smoothed
from casemate.audit.remedies.undeclared import without_surrogates
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
class Nearby:
    """The gradient averaged over points at a standard deviation of `sigma`."""

    sigma: float

    def stand_in(self, model: nn.Module) -> nn.Module:
        return Smoothed(model, self.sigma)

    def __str__(self) -> str:
        return f"its own gradient, averaged over points nearby (deviation {self.sigma:.2g})"


@dataclass(frozen=True)
class Estimated:
    """A gradient from scores alone, of `n_pairs` pairs of points at `sigma`."""

    sigma: float
    n_pairs: int

    def stand_in(self, model: nn.Module) -> nn.Module:
        return FromScores(model, self.sigma, self.n_pairs)

    def __str__(self) -> str:
        return f"a gradient estimated from {2 * self.n_pairs} scores (deviation {self.sigma:.2g})"


Way = Own | Plain | UpTo | Through | Nearby | Estimated
_KINDS: dict[str, Callable[..., Way]] = {kind.__name__: kind for kind in (Own, Plain, UpTo, Through, Nearby, Estimated)}


def as_json(way: Way) -> dict[str, Any]:
    return {"kind": type(way).__name__, **asdict(way)}


def from_json(stored: Mapping[str, Any]) -> Way:
    """The way that `as_json` wrote; raises `CasemateError` where it is none."""
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    try:
        return _KINDS[str(fields.pop("kind"))](**fields)
    except (KeyError, TypeError) as error:
        raise CasemateError(f"the run names no known way to a gradient: {error}") from None
