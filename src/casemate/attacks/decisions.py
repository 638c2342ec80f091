"""What decision-based searches share: a wrong point to start from, and bisection towards the boundary."""

import torch
from jaxtyping import Float64
from torch import Tensor

from casemate import rng
from casemate.attacks.nearest import Index, Search
from casemate.threat import Images, Linf, Threat

# A start is bisected to 1 part in 2^10 of its distance; a further draw must be nearer by a tenth to be worth that.
START_BISECTIONS = 10
START_GAIN = 0.9


def begin(search: Search, n_starts: int) -> None:
    """Find a wrong point for each image among `n_starts` draws of noise, and pull it to the boundary.

    Brendel et al. 2018 draw uniform noise until it is misclassified. A classifier may give all such noise one class,
    whose own images then have no start; so every other draw is uniform noise on square cells of side 2, 4, 8, ... up to
    a single colour, which reaches other classes, and at shorter distances. A draw is asked about at the point on its
    way from the image where it would be nearer than the best so far. Images for which no draw is wrong are closed.
    """
    for draw in range(n_starts):
        at = search.index
        if not len(at):
            break
        noise = _noise(rng.fold(search.keys[at], "draw", draw), search.x.shape[1:], draw)
        # All the way where there is no start yet.
        points = approach(search.threat, search.x[at], noise, START_GAIN * search.distance[at])
        wrong = search.ask(points, at)
        to_boundary(search, points[wrong], at[wrong], START_BISECTIONS)
    search.close(search.distance.isinf().nonzero().squeeze(1))


def to_boundary(search: Search, points: Images, at: Index, n_bisections: int) -> Images:
    """The wrong points nearest to the images `at` that bisection finds on the way from wrong `points` to the images."""
    if not len(at):
        return points
    x, near = search.x[at], points
    far = search.threat.measure(points, x)
    low, high = torch.zeros_like(far), far
    for _ in range(n_bisections):
        middle = (low + high) / 2
        halved = approach(search.threat, x, points, middle)
        wrong = search.ask(halved, at)
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        near = torch.where(wrong[:, None, None, None], halved, near)
    return near


def approach(threat: Threat, x: Images, points: Images, reach: Float64[Tensor, "batch"]) -> Images:
    """The point at distance `reach` on the way from each image to its point, or the point itself if that is nearer.

    In l2 the way is the segment between them; in linf it is the point clipped to the cube of that size (Chen et al.
    2020, section 4.1), which keeps what moves little.
    """
    change = points.double() - x.double()
    if isinstance(threat, Linf):
        limit = reach.view(-1, 1, 1, 1)
        change = change.clamp(-limit, limit)
    else:
        share = (reach / threat.measure(points, x).clamp(min=1e-300)).clamp(max=1)
        change = change * share.view(-1, 1, 1, 1)
    return (x + change).float().clamp_(0, 1)


def _noise(keys: rng.Keys, shape: torch.Size, draw: int) -> Images:
    """Uniform noise [n, C, H, W] on single pixels in every even draw, on square cells of growing side in the others."""
    channels, height, width = shape
    n_sizes = (max(height, width) - 1).bit_length()
    side = 2 ** (1 + draw // 2 % max(n_sizes, 1)) if draw % 2 else 1
    cells = rng.uniform(keys, (channels, -(-height // side), -(-width // side)))
    return cells.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)[:, :, :height, :width].contiguous()
