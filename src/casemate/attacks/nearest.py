"""Minimum-norm attacks: what they return, and the book-keeping of a search for the nearest wrong points."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from casemate import rng
from casemate.attacks.standing import excess
from casemate.classifier import check_batch
from casemate.errors import CasemateError
from casemate.gradients import Classifier, engine_for
from casemate.losses import Labels, Logits, Loss
from casemate.threat import NORMS, Distances, Images, Threat

Index = Int64[Tensor, "some"]
Points = Float32[Tensor, "points channel height width"]


@dataclass(frozen=True)
class Nearest:
    """The nearest misclassified point found for each image, and what it took to find.

    `x_adv` float32 [N, C, H, W] in [0, 1]; `distance` float64 [N] in the norm of the threat model: 0 where the image
    is misclassified as it is, inf where nothing was found, and `x_adv` is then the image itself; `queries` int64 [N],
    the points at which the classifier was asked for that image, each gradient one of them, without the clean check.
    A finite distance is that of a point which the classifier itself, in full precision, gets wrong: it bounds the
    smallest one from above and never proves that there is no nearer point.
    """

    x_adv: Images
    distance: Distances
    queries: Int64[Tensor, "batch"]


@runtime_checkable
class MinimumNorm(Protocol):
    """A search for the misclassified point nearest to each image.

    The threat model says in which norm. Its eps matters only with `stop_inside`: a search then leaves an image once it
    has a point inside the threat model, which is what an attack at one eps asks for.
    """

    def nearest(
        self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys, stop_inside: bool = False
    ) -> Nearest: ...


class NearestAttack(ABC):
    """A `MinimumNorm` search that is an attack at the eps of the threat model, too."""

    def nearest(
        self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys, stop_inside: bool = False
    ) -> Nearest:
        return self._searched(model, x, y, threat, keys, stop_inside).result()

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        return self._searched(model, x, y, threat, keys, stop_inside=True).inside()

    @abstractmethod
    def _searched(
        self, model: Classifier, x: Images, y: Labels, threat: Threat, keys: rng.Keys, stop_inside: bool
    ) -> "Search":
        """The search, ended."""


class Search:
    """The nearest wrong point known for each image, what it cost, and the images still worth a question.

    `index` are the positions in the batch of the images still searched: neither misclassified from the start, nor
    closed by the attack, nor out of their budget of `n_queries` each, nor, with `stop_inside`, broken inside the threat
    model. `norms` are those the attack `who` can search in; another raises `CasemateError`.
    """

    def __init__(
        self,
        model: Classifier,
        x: Images,
        y: Labels,
        threat: Threat,
        *,
        keys: rng.Keys,
        who: str,
        norms: tuple[str, ...],
        stop_inside: bool = False,
        n_queries: int | None = None,
    ) -> None:
        if not isinstance(threat, tuple(NORMS[norm] for norm in norms)):
            raise CasemateError(f"{who} searches in {' or '.join(norms)}, so {threat} is not a threat model for it")
        self.engine = engine_for(model)
        self.x, self.y, self.threat, self.keys = x, y, threat, keys
        self.clean_logits = self.engine.logits(x, keys=keys)
        check_batch(x, y, self.clean_logits.shape[1])
        clean = excess(self.clean_logits, y)
        self.best = x.clone()
        self.distance: Distances = torch.zeros_like(clean, dtype=torch.float64).masked_fill_(clean <= 0, torch.inf)
        self.queries: Int64[Tensor, "batch"] = torch.zeros_like(y)
        self._n_queries, self._stop_inside = n_queries, stop_inside
        self._open = clean <= 0
        # The least right point inside the threat model, for the attack at its eps.
        self._legal, self._shortfall = x.clone(), -clean

    @property
    def index(self) -> Index:
        within = self._open if self._n_queries is None else self._open & (self.queries < self._n_queries)
        return within.nonzero().squeeze(1)

    def close(self, at: Index) -> None:
        """Give up on the images `at`: they have converged, or nothing can be done for them."""
        self._open[at] = False

    def ask(self, points: Points, at: Index) -> Bool[Tensor, "points"]:
        """Whether the classifier in full precision gets each point wrong; what it finds is kept.

        `points` hold the same number for each of the images `at`, those of one image together. An image that is no
        longer searched gets no answer, which reads as False and costs nothing.
        """
        owner = at.repeat_interleave(len(points) // max(len(at), 1))
        return excess(self.logits(points, at), self.y[owner]) > 0

    def logits(self, points: Points, at: Index) -> Logits:
        """What `ask` decides by: the logits of the classifier in full precision, NaN where there is no answer."""
        logits = self.clean_logits.new_full((len(points), self.clean_logits.shape[1]), torch.nan)
        each = len(points) // max(len(at), 1)
        owner, answered = at.repeat_interleave(each), self._answered(at, each)
        asked = answered.flatten().nonzero().squeeze(1)
        if len(asked):
            of = owner[asked]
            logits[asked] = self.engine.logits(points[asked], keys=self.keys[of])
            self.queries[at] += answered.sum(dim=1)
            found = excess(logits, self.y[owner])
            self._keep(points, at, owner, found.masked_fill(found.isnan(), -torch.inf))
        return logits

    def gradient(
        self, points: Images, at: Index, loss: Loss, keys: rng.Keys
    ) -> tuple[Images, Bool[Tensor, "some"], Logits]:
        """The gradient of `loss` at one point for each of the images `at`, whether that point is wrong, and the logits.

        The logits are those of the search, which may be in low precision.
        """
        gradient, logits = self.engine.gradient(points, self.y[at], loss, keys=keys)
        return gradient, self.note(points, at, logits), logits

    def note(self, points: Images, at: Index, logits: Logits) -> Bool[Tensor, "some"]:
        """Keep what came with a gradient at one point for each of the images `at`: whether that point is wrong.

        What the search in low precision believes to be wrong, and nearer than the nearest, is asked for exactly.
        """
        self.queries[at] += 1
        found = excess(logits, self.y[at])
        wrong = found > 0
        self._keep(points, at, at, found.masked_fill(wrong, -torch.inf))
        claims = (wrong & (self.threat.measure(points, self.x[at]) < self.distance[at])).nonzero().squeeze(1)
        wrong[claims] = self.ask(points[claims], at[claims])
        return wrong

    def result(self) -> Nearest:
        return Nearest(self.best, self.distance, self.queries)

    def inside(self) -> Images:
        """For each image the least right point met inside the threat model: the answer of an attack at its eps.

        Where that is not a wrong one, the nearest wrong point is first tried in its projection.
        """
        at = ((self._shortfall >= 0) & self.distance.isfinite()).nonzero().squeeze(1)
        self._open[at] = True
        self.ask(self.threat.project(self.best[at], self.x[at]), at)
        return self._legal

    def _answered(self, at: Index, each: int) -> Bool[Tensor, "some each"]:
        """Which of `each` questions about each image are answered."""
        answered = self._open[at][:, None].expand(-1, each)
        if self._n_queries is not None:
            rank = torch.arange(each, device=at.device)
            answered = answered & (self.queries[at][:, None] + rank < self._n_queries)
        return answered

    def _keep(self, points: Points, at: Index, owner: Int64[Tensor, "points"], found: Float[Tensor, "points"]) -> None:
        distance = torch.full_like(found, torch.inf, dtype=torch.float64)
        wrong = (found > 0).nonzero().squeeze(1)
        distance[wrong] = self.threat.measure(points[wrong], self.x[owner[wrong]])
        _replace(self.best, self.distance, points, at, distance)
        if self._stop_inside:
            legal = self.threat.contains(points, self.x[owner])
            _replace(self._legal, self._shortfall, points, at, (-found).masked_fill(~legal, torch.inf))
            self._open[at] &= self._shortfall[at] >= 0


def annealed(first: float, last: float, step: int, n_steps: int) -> float:
    """The value at `step` of `n_steps` on half a cosine from `first` to `last`, which step `n_steps` would have."""
    return last + (first - last) * (1 + math.cos(math.pi * step / n_steps)) / 2


def _replace(
    images: Images,
    values: Float[Tensor, "batch"],
    points: Points,
    at: Index,
    new: Float[Tensor, "points"],
) -> None:
    """Put the point of least value into `images` for each image `at`, where it is below the one of before."""
    if not len(at):
        return
    least, which = new.view(len(at), -1).min(dim=1)
    better = (least < values[at]).nonzero().squeeze(1)
    images[at[better]] = points[better * (len(points) // len(at)) + which[better]]
    values[at[better]] = least[better]
