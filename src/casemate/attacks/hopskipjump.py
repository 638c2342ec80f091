"""HopSkipJump (Chen, Jordan and Wainwright 2020, arXiv:1904.02144): the boundary's direction from decisions alone."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from casemate import rng
from casemate.attacks.decisions import begin, to_boundary
from casemate.attacks.nearest import Index, NearestAttack, Search
from casemate.errors import CasemateError
from casemate.gradients import Classifier
from casemate.losses import Labels
from casemate.threat import Images, Linf, Threat

# Draws of one image in one question to the classifier, and the pixel values of all draws held at a time.
DRAWS_AT_ONCE = 64
VALUES_AT_ONCE = 2**22
# Images are float32: a shorter search would ask about one point again and again.
MOST_HALVINGS = 24


@dataclass(frozen=True)
class HopSkipJump(NearestAttack):
    """Find near misclassified points in l2 or linf by whether a point is misclassified, and nothing else.

    Algorithm 2 of the paper, from a misclassified point that noise leads to (`casemate.attacks.decisions.begin`). Each
    of `n_steps` iterations t pulls the point to the boundary by bisection, estimates the direction into the wrong
    region from `n_evaluations` sqrt(t) points at l2 distance delta_t around it (equation 16, with the mean answer as
    baseline), and jumps along it, or along its sign in linf, by the distance to the image / sqrt(t), halved until the
    point is misclassified. With d values in an image, delta_t is the distance to the image / d, and bisection ends at
    d^-3/2 (d^-2 in linf) of the distance.

    An image leaves after `n_queries` questions. Called as an attack, it stops at an image once it is broken inside the
    threat model. Gradients and the sizes of logits play no part; only the point returned for an image that stands is
    the one of largest margin loss. Cost: about 2/3 `n_evaluations` n_steps^1.5 forward passes, 17,000 by default, and
    `n_starts` and a few tens to start.
    """

    n_steps: int = 40
    n_evaluations: int = 100
    n_starts: int = 50
    n_queries: int | None = None

    def __post_init__(self) -> None:
        counts = {"step": self.n_steps, "evaluation": self.n_evaluations, "start": self.n_starts}
        for name, count in {**counts, "query": self.n_queries}.items():
            if count is not None and count < 1:
                raise CasemateError(f"HopSkipJump needs at least 1 {name}, not {count}")

    def _searched(
        self, model: Classifier, x: Images, y: Labels, threat: Threat, keys: rng.Keys, stop_inside: bool
    ) -> Search:
        search = Search(
            model, x, y, threat, keys=keys, who="HopSkipJump", norms=("l2", "linf"),
            stop_inside=stop_inside, n_queries=self.n_queries,
        )  # fmt: skip
        begin(search, self.n_starts)
        # The last jump need not be the nearest point, so it is kept beside it.
        point = search.best.clone()
        n_bisections = _halvings(x, threat)
        for step in range(1, self.n_steps + 1):
            at = search.index
            if not len(at):
                break
            point[at] = to_boundary(search, point[at], at, n_bisections)
            n_draws = int(self.n_evaluations * math.sqrt(step))
            direction = _direction(search, point[at], at, n_draws, rng.fold(search.keys[at], step))
            point[at] = _jump(search, point[at], at, direction, step)
        at = search.index
        to_boundary(search, point[at], at, n_bisections)
        return search


def _direction(search: Search, point: Images, at: Index, n_draws: int, keys: rng.Keys) -> Images:
    """The direction in which wrong answers are found around each boundary point: of unit l2 norm, or +-1 in linf."""
    n_values = point[0].numel()
    images_at_once = max(1, VALUES_AT_ONCE // (DRAWS_AT_ONCE * n_values))
    parts = torch.arange(len(at), device=at.device).split(images_at_once)
    estimate = torch.cat([_estimate(search, point[part], at[part], n_draws, keys[part]) for part in parts])
    # Divided by its largest value first: the moves are small, and their squares smaller.
    estimate = estimate / estimate.abs().amax(dim=1, keepdim=True).clamp(min=1e-300)
    if isinstance(search.threat, Linf):
        return estimate.sign().float().view_as(point)
    return (estimate / estimate.norm(dim=1, keepdim=True).clamp(min=1e-300)).float().view_as(point)


def _estimate(search: Search, point: Images, at: Index, n_draws: int, keys: rng.Keys) -> Float64[Tensor, "some values"]:
    """The sum over draws of (answer - mean answer) times the move (equation 16, up to a factor)."""
    n, n_values = len(point), point[0].numel()
    distance = search.threat.measure(point, search.x[at])
    # At least some sixteen steps between float32 numbers below 1 for each value, so that the moves survive rounding.
    radius = (distance / n_values).clamp(min=math.sqrt(n_values) * 2**-20).float()
    answers = torch.zeros(n, 1, dtype=torch.float64, device=point.device)
    moves = torch.zeros(n, n_values, dtype=torch.float64, device=point.device)
    agreeing = torch.zeros_like(moves)
    for start in range(0, n_draws, DRAWS_AT_ONCE):
        shape = (min(DRAWS_AT_ONCE, n_draws - start), *point.shape[1:])
        draw_keys = rng.fold(keys, "draws", start)
        if isinstance(search.threat, Linf):
            draws = 2 * rng.uniform(draw_keys, shape) - 1
        else:
            draws = rng.normal(draw_keys, shape)
        draws *= (radius[:, None] / draws.flatten(2).norm(dim=2).clamp(min=1e-12)).view(n, -1, 1, 1, 1)
        around = (point[:, None] + draws).clamp_(0, 1)
        wrong = search.ask(around.flatten(0, 1), at).view(n, -1)
        # What the box and the rounding left of each move is what the answer is about.
        moved = (around - point[:, None]).flatten(2).double()
        answer = 2.0 * wrong.double() - 1
        answers += answer.sum(dim=1, keepdim=True)
        moves += moved.sum(dim=1)
        agreeing += (answer[:, :, None] * moved).sum(dim=1)
    mean = answers / n_draws
    # Where all answers agree there is no difference to the mean: towards, or away from, where the draws went.
    return torch.where(mean.abs() == 1, mean * moves, agreeing - mean * moves)


def _jump(search: Search, point: Images, at: Index, direction: Images, step: int) -> Images:
    """The first wrong point at the distance to the image / sqrt(step), and its halves, along the direction."""
    size = (search.threat.measure(point, search.x[at]) / math.sqrt(step)).float()
    landed = point.clone()
    flying = torch.arange(len(point), device=point.device)
    for _ in range(MOST_HALVINGS):
        if not len(flying):
            break
        reached = (point[flying] + size[flying].view(-1, 1, 1, 1) * direction[flying]).clamp_(0, 1)
        wrong = search.ask(reached, at[flying])
        landed[flying[wrong]] = reached[wrong]
        flying = flying[~wrong]
        size /= 2
    return landed


def _halvings(x: Images, threat: Threat) -> int:
    """Bisections that leave d^-3/2 of the distance, or d^-2 in linf."""
    power = 2.0 if isinstance(threat, Linf) else 1.5
    return min(MOST_HALVINGS, math.ceil(power * math.log2(max(2, x.shape[1:].numel()))))
