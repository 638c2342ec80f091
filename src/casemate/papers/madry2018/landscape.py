"""Appendix A: the many maxima of the loss around one image, how far apart they are, and what lies between them."""

import polars as pl
import torch
from jaxtyping import Float64
from torch import Tensor

from casemate import rng
from casemate.attacks import maximise
from casemate.gradients import Engine
from casemate.losses import Labels, Values, cross_entropy
from casemate.papers.item import Item, Outcome, Run
from casemate.papers.madry2018 import landscape_figure
from casemate.papers.madry2018.landscape_figure import MAXIMA, RANDOM
from casemate.papers.madry2018.pair import Pair, labelled, open_pairs, start_keys
from casemate.threat import Images, Linf

N_IMAGES, N_MAXIMA, N_STEPS = 5, 200, 100
# Pairs of points whose segments are followed, and points on each segment, both ends counted.
N_SEGMENTS, N_POINTS = 50, 21
# Shares of eps at which maxima are sought too, fewer of them, to see how the gradient at x loses its say.
SMALLER = (0.25, 0.5)

Changes = Float64[Tensor, "points values"]
Frames = dict[str, pl.DataFrame]


def make(run: Run) -> Outcome:
    """200 maxima around each image for each network; the settings differ in their networks alone."""
    pairs, rows = open_pairs(run, N_IMAGES)
    drawn, found = {}, []
    for pair in pairs:
        frames = measured(pair, run)
        expected = expected_distance(pair.x, pair.threat.eps).mean().item()
        drawn[pair.dataset.name] = landscape_figure.figure(pair, frames, run, expected)
        rows += landscape_figure.claims(pair, frames, expected)
        found.append(frames)
    networks = tuple(network for pair in pairs for network in pair.networks.values())
    data = {key: pl.concat(frames[key] for frames in found) for key in found[0]}
    return Outcome(drawn, data, tuple(rows), networks)


def measured(pair: Pair, run: Run) -> Frames:
    """Three frames, each with the columns data, network and image.

    `points`: one maximum of each start at each eps, its loss, and the inner product and cosine of its change with the
    gradient of the loss at the image. `pairs`: the l2 distance and the angle (in degrees, between the changes) of every
    two maxima, and of every two `RANDOM` points of the ball. `segments`: the loss at 21 points from one to another.
    """
    collected: dict[str, list[pl.DataFrame]] = {"points": [], "pairs": [], "segments": []}
    for done, (network, engine) in enumerate(pair.engines.items()):
        for place, image in enumerate(pair.index.tolist()):
            run.progress(done * len(pair.index) + place, 2 * len(pair.index), f"{pair.dataset.title}, {network}")
            around = _around(pair, engine, place, start_keys(run.seed, image, torch.arange(N_MAXIMA)))
            for key, frame in around.items():
                collected[key].append(labelled(frame, data=pair.dataset.name, network=network, image=image))
    return {key: pl.concat(frames) for key, frames in collected.items()}


def _around(pair: Pair, engine: Engine, place: int, keys: rng.Keys) -> Frames:
    """The three frames for one image and network."""
    keys = keys.to(pair.x.device)
    x, y = pair.x[place : place + 1], pair.y[place : place + 1]
    maxima = _maxima(pair, engine, x, y, keys, 1.0)
    random = pair.threat.sample(x.expand_as(maxima), rng.fold(keys, "random point"))
    gradient, _ = engine.gradient(x, y, cross_entropy)
    points = [_points(engine, maxima, x, y, gradient, 1.0)]
    for share in SMALLER:
        fewer = _maxima(pair, engine, x, y, keys[:N_SEGMENTS], share)
        points.append(_points(engine, fewer, x, y, gradient, share))
    kinds = {MAXIMA: maxima, RANDOM: random}
    pairs = [labelled(_pairs(changes(z, x)), between=kind) for kind, z in kinds.items()]
    segments = [labelled(_segments(engine, z, y), between=kind) for kind, z in kinds.items()]
    return {"points": pl.concat(points), "pairs": pl.concat(pairs), "segments": pl.concat(segments)}


def _maxima(pair: Pair, engine: Engine, x: Images, y: Labels, keys: rng.Keys, share: float) -> Images:
    """Where PGD ends from as many random starts as there are keys, in the ball with `share` of eps."""
    ball = Linf(share * pair.threat.eps)
    images, labels = x.expand(len(keys), -1, -1, -1), y.expand(len(keys))
    return maximise(
        engine,
        images,
        labels,
        ball,
        keys=keys,
        start=ball.sample(images, rng.fold(keys, "start")),
        n_steps=N_STEPS,
        step_size=share * pair.dataset.step_size,
        loss=cross_entropy,
    )


def _points(engine: Engine, z: Images, x: Images, y: Labels, gradient: Images, share: float) -> pl.DataFrame:
    delta, slope = changes(z, x), gradient.flatten(1).double()
    product = (delta * slope).sum(dim=1)
    # Where the gradient is zero it has no direction, and the cosine is 0.
    cosine = product / (delta.norm(dim=1) * slope.norm()).clamp(min=1e-300)
    columns = {"loss": _loss(engine, z, y), "inner_product": product, "cosine": cosine}
    frame = pl.DataFrame({key: column.cpu().numpy() for key, column in columns.items()})
    return labelled(frame.with_row_index("start"), share_of_eps=share)


def _pairs(delta: Changes) -> pl.DataFrame:
    columns = {"distance": distances(delta), "angle": angles(delta)}
    return pl.DataFrame({key: column.float().cpu().numpy() for key, column in columns.items()})


def _segments(engine: Engine, z: Images, y: Labels) -> pl.DataFrame:
    """The loss along the segments between the first and second point, the third and fourth, and so on."""
    place = torch.linspace(0, 1, N_POINTS, device=z.device)
    first, second = z[0 : 2 * N_SEGMENTS : 2, None], z[1 : 2 * N_SEGMENTS : 2, None]
    points = torch.lerp(first, second, place[None, :, None, None, None]).clamp(0, 1)
    loss = _loss(engine, points.flatten(0, 1), y)
    segment = torch.arange(len(first)).repeat_interleave(N_POINTS)
    return pl.DataFrame(
        {"segment": segment.numpy(), "place": place.repeat(len(first)).cpu().numpy(), "loss": loss.cpu().numpy()}
    )


def _loss(engine: Engine, z: Images, y: Labels) -> Values:
    return cross_entropy(engine.logits(z), y.expand(len(z)))


def changes(z: Images, x: Images) -> Changes:
    """z - x as vectors, for one image x [1, ...] and several points around it."""
    return (z.double() - x.double()).flatten(1)


def distances(delta: Changes) -> Float64[Tensor, "pairs"]:
    """The l2 distance of every two of the points."""
    return torch.nn.functional.pdist(delta)


def angles(delta: Changes) -> Float64[Tensor, "pairs"]:
    """The angle between every two of the changes, in degrees."""
    unit = torch.nn.functional.normalize(delta, dim=1)
    first, second = torch.triu_indices(len(unit), len(unit), offset=1)
    return (unit @ unit.T)[first, second].clamp(-1, 1).arccos().rad2deg()


def expected_distance(x: Images, eps: float) -> Float64[Tensor, "batch"]:
    """The root mean square l2 distance of two points that `Linf(eps).sample` draws around each image, exactly.

    Away from the box every value is uniform over 2 eps, so that it is eps sqrt(2 d / 3) for d values (6.86 for MNIST at
    0.3); what the box clips has less variance.
    """
    v = x.double().flatten(1)
    low, high = (v - eps).clamp(min=0), (v + eps).clamp(max=1)
    # The mass that is clipped to 1, and the uniform density between; what is clipped to 0 adds nothing to a moment.
    top = (v + eps - 1).clamp(min=0) / (2 * eps)
    mean = (high**2 - low**2) / (4 * eps) + top
    square = (high**3 - low**3) / (6 * eps) + top
    return (2 * (square - mean**2).sum(dim=1)).sqrt()


ITEM = Item(
    "landscape",
    "distances, angles and segments between 200 maxima of the loss",
    "appendix A",
    {"small": "2 minutes", "full": "5 minutes for MNIST; CIFAR-10 needs a GPU"},
    make,
)
