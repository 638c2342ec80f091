"""Does a threat model keep the promises of `casemate.threat.Threat`?"""

import torch
from torch import Tensor

from casemate import rng
from casemate.testing import models
from casemate.testing.conformance import require, running
from casemate.threat import L2, NORMS, ROUNDING, Gradients, Images, Linf, Threat, parse

SHAPES = ((1, 5, 7), (3, 8, 8))
# A few roundings of numbers near 1 in float32.
SLACK = 2.0**-21
# Sums in float64 round as well; nothing stored in float32 is this close to the surface of a ball by chance.
ROUNDING_64 = 1e-12


def check_threat(threat: Threat) -> None:
    """Raise `ConformanceError`, one sentence that names the first promise `threat` breaks; else return None.

    On images of two shapes, with black, white and random ones, and on candidates near, far and at the box:

    - it is a value: hashable, equal to itself, with eps > 0, and for a norm that `parse` knows equal to
      `parse(str(threat))`;
    - `project` stays inside with no slack (`measure` in float64 at most eps, the box exactly), is idempotent, leaves
      points inside alone, and no feasible point is nearer: neither samples, nor points between, nor what projecting
      from closer by yields, which finds nearer points wherever the set is convex and the projection is not nearest;
    - `sample` is inside, fixed by its keys and different for different keys;
    - `ascent` of a gradient has size 1, grows the loss to first order, and for `Linf` and `L2` at least as much as
      1,000 random steps of size 1; a zero gradient gives a finite step;
    - `measure` is float64, symmetric, not negative and 0 for an image itself;
    - `contains` is True for what `project` and `sample` return and False for 1.01 eps, values outside [0, 1] and NaN;
    - every method treats an image the same whatever the batch, takes an empty batch and leaves its arguments alone.
    """
    who = str(threat)
    _check_value(threat, who)
    for image_shape in SHAPES:
        x = _images(image_shape)
        with running(who):
            _check_sample(threat, x, who)
            _check_project(threat, x, who)
            _check_measure(threat, x, who)
            _check_ascent(threat, image_shape, who)
            _check_batches(threat, x, who)


def _images(image_shape: models.Shape) -> Images:
    x = models.images(8, image_shape)
    x[0], x[1], x[2] = 0, 1, 0.5
    # Many values at the faces of the box, as in MNIST.
    x[3:5] = (2 * x[3:5] - 0.5).clamp(0, 1)
    return x


def _candidates(x: Images) -> list[Images]:
    """Images to project: outside the box, at its corners, and displaced by little, evenly and in a few values only."""
    keys = rng.image_keys(3, torch.arange(len(x)))
    normal, uniform = (draw(rng.fold(keys, draw.__name__), x.shape[1:]) for draw in (rng.normal, rng.uniform))
    few = (x + 10 * normal * (uniform < 0.1)).clamp(0, 1)
    return [x + 2 * normal, (normal > 0).float(), (x + 0.05 * normal).clamp(0, 1), few, 1 - x, x + 1e-6 * normal]


def _keys(seed: int, n: int = 8) -> rng.Keys:
    return rng.image_keys(seed, torch.arange(n))


def _require_inside(threat: Threat, x_adv: Tensor, x: Images, sentence: str) -> None:
    require(x_adv.shape == x.shape and x_adv.dtype == x.dtype, f"{sentence} another shape or dtype")
    over = float((threat.measure(x_adv, x) - threat.eps).max())
    require(over <= threat.eps * ROUNDING_64, f"{sentence} a point that is {over:.3g} beyond eps")
    require(bool(((x_adv >= 0) & (x_adv <= 1)).all()), f"{sentence} a point outside the box [0, 1]")
    require(bool(threat.contains(x_adv, x).all()), f"{sentence} a point that contains() denies")


def _check_value(threat: Threat, who: str) -> None:
    require(threat.eps > 0, f"{who} has eps {threat.eps}, which leaves the adversary nothing")
    with running(f"hash() of {who}"):
        require(hash(threat) == hash(threat) and threat == threat, f"{who} is not equal to itself")
    if who.partition(":")[0] in NORMS:
        with running(f"parsing {who}"):
            require(parse(who) == threat, f"{who} reads back as another threat model than {threat!r}")


def _check_sample(threat: Threat, x: Images, who: str) -> None:
    drawn = threat.sample(x, _keys(1))
    _require_inside(threat, drawn, x, f"{who}: sample returned")
    require(torch.equal(drawn, threat.sample(x, _keys(1))), f"{who}: sample with the same keys gave other points")
    moved = (drawn != threat.sample(x, _keys(2))).flatten(1).any(dim=1)
    require(bool(moved.all()), f"{who}: sample gave the same point for two keys")
    same_image = x[:1].expand_as(x)
    alike = threat.sample(same_image, _keys(1))
    require(len(alike.flatten(1).unique(dim=0)) == len(x), f"{who}: sample gave two images of a batch the same point")


def _check_project(threat: Threat, x: Images, who: str) -> None:
    inside = [threat.sample(x, _keys(seed)) for seed in range(4)]
    for point in inside:
        halfway = x + (point - x) / 2
        if threat.contains(halfway, x).all():
            moved = float((threat.project(halfway, x) - halfway).abs().max())
            require(moved <= SLACK, f"{who}: project moved a point inside by {moved:.3g}")
    for candidate in _candidates(x):
        nearest = threat.project(candidate, x)
        _require_inside(threat, nearest, x, f"{who}: project returned")
        moved = float((threat.project(nearest, x) - nearest).abs().max())
        require(moved <= SLACK, f"{who}: projecting twice moved a value by {moved:.3g} more than projecting once")
        distance = _distance(candidate, nearest)
        for other in (*inside, *_rivals(threat, candidate, nearest, x)):
            # Rounding moves each value by at most SLACK, and a distance by no more than the norm of that.
            nearer = torch.where(threat.contains(other, x), distance - _distance(candidate, other), 0)
            gain = float(nearer.max())
            sentence = f"{who}: project missed a feasible point that is nearer by {gain:.3g}"
            require(gain <= SLACK * x[0].numel() ** 0.5, sentence)


def _rivals(threat: Threat, candidate: Images, nearest: Images, x: Images) -> list[Images]:
    """Feasible points that are nearer than `nearest` if it is not the projection onto a convex set."""
    rivals = [nearest + share * (threat.sample(x, _keys(9)) - nearest) for share in (0.01, 0.1, 0.5)]
    for share in (0.01, 0.1, 0.5):
        point = nearest
        for _ in range(5):
            point = threat.project(point + share * (candidate - point), x)
        rivals.append(point)
    return rivals


def _distance(a: Images, b: Images) -> Tensor:
    return (a.double() - b.double()).flatten(1).norm(dim=1)


def _check_measure(threat: Threat, x: Images, who: str) -> None:
    other = models.images(8, x.shape[1:], seed=5)
    distance = threat.measure(other, x)
    require(distance.dtype == torch.float64 and distance.shape == x.shape[:1], f"{who}: measure is not float64 [batch]")
    require(torch.equal(distance, threat.measure(x, other)), f"{who}: measure is not symmetric")
    require(bool((distance >= 0).all()), f"{who}: measure is negative")
    require(bool((threat.measure(x, x) == 0).all()), f"{who}: measure of an image and itself is not 0")

    middle = torch.full_like(x, 0.5)
    edge = threat.project(middle + 0.5 * (other - 0.5).sign(), middle)
    # Only where this moved a point out, as it does in a norm: the inside of a set that counts is not scaled.
    beyond = middle + (edge - middle) * (1.01 * threat.eps / threat.measure(edge, middle)).view(-1, 1, 1, 1).float()
    out = threat.measure(beyond, middle) > 1.005 * threat.eps + ROUNDING * x[0].numel()
    require(not bool((threat.contains(beyond, middle) & out).any()), f"{who}: contains allows 1.01 eps")
    for value in (-(2.0**-20), 1 + 2.0**-20, torch.nan, torch.inf):
        bad = x.clone()
        bad[:, 0, 0, 0] = value
        require(not bool(threat.contains(bad, x).any()), f"{who}: contains allows a pixel value of {value}")


def _check_ascent(threat: Threat, image_shape: models.Shape, who: str) -> None:
    middle = torch.full((8, *image_shape), 0.5)
    gradient: Gradients = rng.normal(_keys(6), image_shape) * torch.logspace(-20, 3, 8).view(-1, 1, 1, 1)
    step = threat.ascent(gradient, middle)
    require(step.shape == middle.shape and step.dtype == middle.dtype, f"{who}: ascent changed shape or dtype")
    size = threat.measure(middle + step, middle)
    require(bool(((size - 1).abs() < 1e-4).all()), f"{who}: ascent has size {float(size[0]):.6g}, not 1")
    growth = _inner(step, gradient)
    require(bool((growth > 0).all()), f"{who}: ascent does not grow the loss")
    finite = threat.ascent(0 * gradient, middle).isfinite().all()
    require(bool(finite), f"{who}: ascent of a zero gradient is not finite")
    if isinstance(threat, (Linf, L2)):
        rivals = rng.normal(_keys(7, 1000), image_shape)
        # The best step of size 1 in a random orthant; in l2 scaled to size 1 whatever the orthant.
        rivals = rivals.sign() if isinstance(threat, Linf) else rivals / rivals.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        best = (rivals.double().flatten(1) @ gradient.double().flatten(1).T).amax(dim=0)
        require(bool((growth >= best).all()), f"{who}: ascent grows the loss less than a random step of the same size")


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).flatten(1).sum(dim=1)


def _check_batches(threat: Threat, x: Images, who: str) -> None:
    candidate, keys = _candidates(x)[0], _keys(8)
    methods = {
        "project": lambda at: threat.project(candidate[at], x[at]),
        "sample": lambda at: threat.sample(x[at], keys[at]),
        "ascent": lambda at: threat.ascent(candidate[at], x[at]),
        "measure": lambda at: threat.measure(candidate[at], x[at]),
        "contains": lambda at: threat.contains(candidate[at], x[at]),
    }
    before = [tensor.clone() for tensor in (candidate, x, keys)]
    for name, method in methods.items():
        whole = method(slice(None))
        parts = torch.cat([method(slice(0, 3)), method(slice(3, 4)), method(slice(4, 8))])
        require(torch.equal(whole, parts), f"{who}: {name} of an image depends on the batch it is in")
        with running(f"{who}: {name} of an empty batch"):
            require(len(method(slice(0, 0))) == 0, f"{who}: {name} of an empty batch is not empty")
        untouched = all(torch.equal(a, b) for a, b in zip(before, (candidate, x, keys), strict=True))
        require(untouched, f"{who}: {name} wrote into its arguments")
