"""The plan of an audit: which remedies it applies to a classifier, as a value that its run records."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from casemate.attacks import PGD, Square, Transfer
from casemate.audit.cascade import Stage
from casemate.audit.remedies import ways
from casemate.audit.remedies.logarithm import Logarithm
from casemate.audit.remedies.seeded import Seeded
from casemate.audit.remedies.ways import BySource, Estimated, Known, Nearby, Own, UpTo, Way
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.precision import Precision
from casemate.threat import NORMS, Threat

# Not at all, all images of a batch at once, or one image at a time.
Seeding = Literal["no", "in batches", "one by one"]
# What is tried on other classifiers to transfer from.
ON_SOURCES = PGD(n_steps=40, loss="margin")
# Draws of a gradient that is random because of the way it is found: measured, an estimate would take 64, and 8,000
# scores.
N_DRAWS = {Nearby: 8, Estimated: 1}


@dataclass(frozen=True)
class Plan:
    """Which remedies an audit applies. Without any it attacks the classifier as it is.

    `logarithm` (G12) and `seeded` (G10) change what the classifier answers, by `Logarithm` and `Seeded`, and never
    what it decides for a draw. `way` changes the gradient alone: what breaks an image is still judged by the
    classifier's own answers. `n_queries` are those of one more stage of scores alone (G2, G4), 0 for none. Attacks
    transfer from each of `sources`, as one more stage.
    """

    logarithm: bool = False
    seeded: Seeding = "no"
    way: Way = Own()
    n_queries: int = 0
    sources: tuple[BySource, ...] = ()

    def answering(self, model: nn.Module) -> nn.Module:
        """The classifier that the verdicts are about: `model` itself where no remedy changes its answers."""
        answering = Logarithm(model) if self.logarithm else model
        return self._seeded(answering)

    def stand_in(self, model: nn.Module) -> nn.Module | None:
        """What is differentiated in its place, None for the classifier itself."""
        found = self.way.stand_in(model)
        if found is None:
            return None
        if isinstance(self.way, BySource):
            return found
        # A submodule that answers by itself has no softmax behind it.
        by_itself = isinstance(self.way, UpTo) and self.way.whole
        if self.logarithm and not by_itself:
            found = Logarithm(found)
        return self._seeded(found)

    def _seeded(self, model: nn.Module) -> nn.Module:
        return model if self.seeded == "no" else Seeded(model, one_by_one=self.seeded == "one by one")

    def engine(
        self,
        model: nn.Module,
        *,
        precision: Precision = "auto",
        batch_size: int | None = None,
        draws: int | None = None,
    ) -> Engine:
        """An engine around the classifier with these remedies."""
        if draws is None:
            draws = N_DRAWS.get(type(self.way))
        return Engine(
            self.answering(model),
            precision=precision,
            batch_size=batch_size,
            draws=draws,
            stand_in=self.stand_in(model),
        )

    def stages(self, threat: Threat) -> tuple[Stage, ...]:
        """What it adds to a cascade."""
        found = [Stage(f"transfer from {transfer.name}", transfer) for transfer in self.transfers()]
        if self.n_queries and isinstance(threat, tuple(NORMS.values())):
            found.append(Stage(f"Square-{self.n_queries}", Square(n_queries=self.n_queries)))
        return tuple(found)

    def transfers(self) -> tuple[Transfer, ...]:
        """The attacks from `sources`; raises `CasemateError` where one is not at hand."""
        return tuple(Transfer(source.network, ON_SOURCES, source.name) for source in self.sources)

    def beyond(self, plan: "Plan") -> str:
        """In words, what this one does that `plan` does not."""
        words = []
        if self.logarithm and not plan.logarithm:
            words.append("the logarithms of the probabilities stand for logits")
        if self.seeded != plan.seeded:
            words.append("the draws of an image follow its key, and gradients are means over draws")
        if self.way != plan.way:
            words.append(f"attacks follow {self.way}")
        if self.n_queries and not plan.n_queries:
            words.append(f"{self.n_queries} queries of scores alone after all other attacks")
        if more := [source.name for source in self.sources if source not in plan.sources]:
            words.append(f"transfer from {' and '.join(more)} after all other attacks")
        return "; ".join(words)

    def as_json(self) -> dict[str, Any]:
        return {
            "logarithm": self.logarithm,
            "seeded": self.seeded,
            "way": ways.as_json(self.way),
            "n_queries": self.n_queries,
            "sources": [ways.as_json(source) for source in self.sources],
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any], known: Known) -> "Plan":
        """The plan that `as_json` wrote; raises KeyError or `CasemateError` where it is none.

        `known` are the networks that its ways name, by fingerprint; what needs one that is absent says so when used.
        """
        sources = [ways.from_json(source, known) for source in stored["sources"]]
        if not all(isinstance(source, BySource) for source in sources):
            raise CasemateError("the run transfers from what is no classifier")
        return Plan(
            stored["logarithm"],
            stored["seeded"],
            ways.from_json(stored["way"], known),
            stored["n_queries"],
            tuple(source for source in sources if isinstance(source, BySource)),
        )
