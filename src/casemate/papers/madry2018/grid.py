"""The grid behind tables 1 and 2: one network, attacks of growing strength, and the networks that they start from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl
from torch import nn

from casemate import rng
from casemate.attacks import PGD, Attack, Restarts, Transfer
from casemate.attacks.standing import Standing
from casemate.gradients import Classifier, Engine
from casemate.losses import Labels
from casemate.papers.evaluation import Accuracy, evaluation
from casemate.papers.item import Run
from casemate.papers.networks import Network, Variant
from casemate.threat import Images, Threat

NONE = "none"


@dataclass(frozen=True)
class Handed:
    """What `attack` finds against `source`, handed to the attacked classifier; the search ends where it succeeds.

    Where the source is fooled, the gradient of Carlini and Wagner's loss at confidence kappa = 0 vanishes, so that the
    paper's CW goes no further, unlike cross-entropy and CW+ (`Transfer`).
    """

    source: nn.Module = field(repr=False)
    attack: PGD

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        standing = Standing(model, x, y, keys=keys)
        if standing:
            at = standing.index
            standing.record_exactly(self.attack(self.source, x[at], y[at], threat, keys=keys[at]))
        return standing.best


@dataclass(frozen=True)
class Search:
    """How examples are sought: `attack` from `n_restarts` random starts.

    `until_fooled` ends a search on another network where that one is fooled. On the attacked network itself every
    search ends there.
    """

    attack: PGD
    n_restarts: int = 1
    until_fooled: bool = False

    def white_box(self) -> Attack:
        return Restarts(self.attack, self.n_restarts)

    def black_box(self, source: Network) -> Attack:
        """The same search on `source`. The restarts are those of `white_box`, so more of them never find less."""
        if self.until_fooled:
            return Restarts(Handed(source.model, self.attack), self.n_restarts)
        return Restarts(Transfer(source.model, self.attack, source.name), self.n_restarts)


@dataclass(frozen=True)
class Line:
    """One number of a table; `published` in percent, None where the paper prints none.

    `target` is attacked with examples from `source`, both named as in the paper. Without a search they are the clean
    images, from `NONE`.
    """

    part: str
    method: str
    target: str
    source: str
    published: float | None
    search: Search | None
    note: str = ""

    @property
    def label(self) -> str:
        """Such as "A: PGD 40 x 1 from B", with steps and restarts where there is more than one step."""
        search = self.search
        effort = f" {search.attack.n_steps} x {search.n_restarts}" if search and search.attack.n_steps > 1 else ""
        where = "" if self.source in (self.target, NONE) else f" from {self.source}"
        return f"{self.target}: {self.method}{effort}{where}"


def measured(
    lines: Sequence[Line], targets: Mapping[str, Variant], sources: Mapping[str, Variant], run: Run, n: int
) -> tuple[pl.DataFrame, tuple[Network, ...]]:
    """Each line with what is left of the accuracy on the first `n` test images, and the networks it took.

    Each is what its own attack finds alone; two lines that are the same search from the same network are made once.
    `targets` and `sources` give the networks of the names in the lines.
    """
    pairs = [(targets[line.target], sources.get(line.source)) for line in lines]
    networks = {one: run.network(one) for one in dict.fromkeys(one for pair in pairs for one in pair if one)}
    engines = {target: Engine(networks[target].model, precision="float32") for target, _ in pairs}
    judged = evaluation(next(iter(networks.values())), n, run.seed)
    known: dict[tuple[Variant, Variant | None, Search | None], Accuracy] = {}
    rows = []
    for done, (line, (target, source)) in enumerate(zip(lines, pairs, strict=True)):
        run.progress(done, len(lines), line.label)
        case = (target, source, line.search)
        if case not in known:
            known[case] = judged.accuracy(engines[target], _attack(line.search, target, source, networks))
        rows.append({**_columns(line), **known[case].columns(), "note": line.note})
    return pl.DataFrame(rows, schema_overrides={"published": pl.Float64}), tuple(networks.values())


def _columns(line: Line) -> dict[str, str | float | None]:
    return {
        "part": line.part,
        "label": line.label,
        "target": line.target,
        "source": line.source,
        "method": line.method,
        "n_steps": line.search.attack.n_steps if line.search else None,
        "n_restarts": line.search.n_restarts if line.search else None,
        "published": line.published,
    }


def _attack(
    search: Search | None, target: Variant, source: Variant | None, networks: Mapping[Variant, Network]
) -> Attack | None:
    if search is None or source is None:
        return None
    return search.white_box() if source == target else search.black_box(networks[source])
