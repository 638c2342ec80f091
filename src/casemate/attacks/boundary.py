"""The Boundary attack (Brendel, Rauber and Bethge 2018, arXiv:1712.04248): a random walk along the boundary."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from casemate import rng
from casemate.attacks.decisions import approach, begin
from casemate.attacks.nearest import Index, NearestAttack, Search
from casemate.errors import CasemateError
from casemate.gradients import Classifier
from casemate.losses import Labels
from casemate.threat import Images, Threat

# The paper lengthens the orthogonal step where close to half of them succeed and shortens it where far fewer do, and
# the step towards the image likewise, by a share it leaves open. These shares, factor and probing came out best in a
# simulation of the walk along a flat boundary, in 16 and in 784 dimensions.
SPHERICAL_SUCCESS = 0.4
SOURCE_SUCCESS = 0.2
ADAPTATION = 1.3
# The orthogonal step is asked about by itself in every fifth step only.
PROBE_EVERY = 5
# The walk has converged where both steps are this small a share of the distance; the first alone may only mean that the
# orthogonal steps are still too long.
CONVERGED_SOURCE, CONVERGED_SPHERICAL = 1e-7, 1e-3
# Smaller steps would not grow again in time, and a step of 1 would pass the image.
SMALLEST, LARGEST = 1e-8, 0.9

Sizes = Float32[Tensor, "some"]


@dataclass(frozen=True)
class Boundary(NearestAttack):
    """Find near misclassified points in l2 by whether a point is misclassified, and nothing else.

    From a misclassified point that noise leads to (`casemate.attacks.decisions.begin`, the nearest of `n_starts`
    draws), each of `n_steps` steps proposes a random move orthogonal to the way to the image, of `spherical_step` times
    the distance, then one towards the image, of `source_step` times the distance, and takes it if the point is still
    misclassified. Both sizes belong to the image and follow its own successes: each outcome multiplies a size so that
    it stays as it is where the share of successes is the one aimed at (the paper's windowed rates with a window of
    one). An image leaves when its steps towards it have shrunk to nothing, or after `n_queries` questions.

    2,000 steps are the setting of Madry et al. 2018, figure 6, and they do not converge on images of 784 values: even
    on a flat boundary the excess over the least distance takes about 3 steps per value to shrink by a factor of e.
    Double `n_steps` until the distances stay.

    Called as an attack, it stops at an image once it is broken inside the threat model. Gradients and the sizes of
    logits play no part; only the point returned for an image that stands is the one of largest margin loss. Cost: 1.2
    forward passes per step, and `n_starts` and a few tens to start.
    """

    n_steps: int = 2000
    spherical_step: float = 0.01
    source_step: float = 0.01
    n_starts: int = 50
    n_queries: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("step", self.n_steps), ("start", self.n_starts), ("query", self.n_queries)):
            if least is not None and least < 1:
                raise CasemateError(f"Boundary needs at least 1 {name}, not {least}")
        for name, size in (("spherical", self.spherical_step), ("source", self.source_step)):
            if not 0 < size < 1:
                raise CasemateError(f"the {name} step of Boundary is a share of the distance in (0, 1), not {size}")

    def _searched(
        self,
        model: Classifier,
        x: Images,
        y: Labels,
        threat: Threat,
        keys: rng.Keys,
        stop_inside: bool,
        observe: Callable[[Search], None] = lambda search: None,
    ) -> Search:
        search = Search(
            model, x, y, threat, keys=keys, who="Boundary", norms=("l2",),
            stop_inside=stop_inside, n_queries=self.n_queries,
        )  # fmt: skip
        begin(search, self.n_starts)
        spherical = torch.full_like(search.distance, self.spherical_step, dtype=torch.float32)
        source = torch.full_like(spherical, self.source_step)
        for step in range(self.n_steps):
            observe(search)
            at = search.index
            if not len(at):
                break
            sphere, nearer = _proposals(search, at, spherical[at], source[at], rng.fold(search.keys[at], step))
            if step % PROBE_EVERY == 0:
                spherical[at] = _adapted(spherical[at], search.ask(sphere, at), SPHERICAL_SUCCESS)
            source[at] = _adapted(source[at], search.ask(nearer, at), SOURCE_SUCCESS)
            search.close(at[(source[at] < CONVERGED_SOURCE) & (spherical[at] < CONVERGED_SPHERICAL)])
        return search


def distance_path(
    model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys, attack: Boundary
) -> Float64[Tensor, "points batch"]:
    """The distance of the nearest wrong point at the start of each walk and after every step, [n_steps + 1, N].

    Row k is what `attack` with k steps finds, for the steps of a shorter walk are the first of a longer one.
    """
    path: list[Tensor] = []
    search = attack._searched(
        model, x, y, threat, keys, stop_inside=False, observe=lambda search: path.append(search.distance.clone())
    )
    # Nothing changes any more after the last image has left.
    path += [search.distance] * (attack.n_steps + 1 - len(path))
    return torch.stack(path)


def _proposals(search: Search, at: Index, spherical: Sizes, source: Sizes, keys: rng.Keys) -> tuple[Images, Images]:
    """A random point at the distance of the nearest wrong one from each image, and the point to which that shrinks.

    The current point of the walk is the nearest wrong one, since only nearer points are taken.
    """
    x, distance = search.x[at], search.distance[at]
    away = (search.best[at] - x).flatten(1).double() / distance[:, None]
    move = rng.normal(keys, x.shape[1:]).flatten(1).double()
    move -= (move * away).sum(dim=1, keepdim=True) * away
    # An image of a single value has no orthogonal directions.
    move *= spherical[:, None] / move.norm(dim=1, keepdim=True).clamp(min=1e-12)
    on_sphere = (away + move) * (distance / (1 + spherical.double().square()).sqrt())[:, None]
    sphere = (x + on_sphere.view_as(x)).float().clamp_(0, 1)
    # The box may have brought it nearer than the step would, and then it stays where it is.
    return sphere, approach(search.threat, x, sphere, (1 - source) * distance)


def _adapted(size: Sizes, success: Bool[Tensor, "some"], share: float) -> Sizes:
    # Growth and shrinkage balance at that share of successes.
    factor = torch.where(success, ADAPTATION ** (1 - share), ADAPTATION**-share)
    return (size * factor).clamp(SMALLEST, LARGEST)
