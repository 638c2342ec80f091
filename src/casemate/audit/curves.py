"""What an audit measures for its pictures: accuracy against eps and steps, loss paths and loss surfaces."""

from collections.abc import Callable
from typing import Any

import torch

from casemate import rng
from casemate.attacks import PGD, Worst, loss_path
from casemate.audit.cascade import Stage, attempt
from casemate.audit.manifest import settings
from casemate.audit.statistics import clopper_pearson
from casemate.gradients import Engine
from casemate.losses import Labels, margin
from casemate.threat import Images, Linf, Threat, with_eps

MULTIPLES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5)
MAX_IMAGES = 200
N_PATHS, N_STARTS = 5, 20
# Points of a loss surface from -eps to eps each way, and the images that have one.
N_POINTS, N_SURFACES = 21, 3


def accuracy_against_eps(
    engine: Engine,
    x: Images,
    y: Labels,
    threat: Threat,
    seed: int,
    progress: Callable[[str, int], None] | None = None,
) -> dict[str, Any]:
    """Attacked accuracy on the first `MAX_IMAGES` images at 0 and at `MULTIPLES` of the audited eps, ascending.

    PGD-20 on cross-entropy, then on the margin. The balls are nested: an adversarial image inside a ball is inside
    every larger one around the same image, so an image broken at one eps counts as broken at all larger ones without
    being tried again. The curve never rises for that reason, and costs less where it is low.
    Intervals are Clopper-Pearson at 95%. The value at the audited eps is that of this attack, not of the audit.
    """
    x, y = x[:MAX_IMAGES], y[:MAX_IMAGES]
    index = torch.arange(len(x), device=x.device)
    keys = rng.image_keys(seed, index)
    attack = Worst((PGD(n_steps=20), PGD(n_steps=20, loss="margin")))
    right = engine.logits(x, keys=keys).argmax(dim=1) == y
    grid, counts = [0.0], [int(right.sum())]
    for eps in _grid(threat):
        at = right.nonzero().squeeze(1)
        stage = Stage(f"accuracy at eps {eps:.4g}", attack)
        if progress is not None:
            progress(stage.name, len(at))
        if len(at):
            ball = with_eps(threat, eps)
            right[at] = ~attempt(engine, stage, x[at], y[at], index[at], ball, keys[at]).broke
        grid.append(eps)
        counts.append(int(right.sum()))
    return {
        "n": len(x),
        "eps": grid,
        "attacked_accuracy": [count / len(x) for count in counts],
        "interval": [list(clopper_pearson(count, len(x))) for count in counts],
        "attack": settings(attack),
    }


def loss_paths(engine: Engine, x: Images, y: Labels, threat: Threat, seed: int) -> dict[str, Any]:
    """The cross-entropy along `N_STARTS` runs of PGD-100 from random points, for the first `N_PATHS` correct images.

    Madry et al. 2018, figure 1: where the runs end at much the same loss, first-order attacks have little left
    to find. `loss` is indexed by image, start and step (n_steps + 1 values).
    """
    x, y = x[:MAX_IMAGES], y[:MAX_IMAGES]
    attack = PGD(n_steps=100)
    keys = rng.image_keys(seed, torch.arange(len(x), device=x.device))
    right = engine.logits(x, keys=keys).argmax(dim=1) == y
    chosen = right.nonzero().squeeze(1)[:N_PATHS]
    paths = torch.empty(0, N_STARTS, attack.n_steps + 1)
    if len(chosen):
        copies = chosen.repeat_interleave(N_STARTS)
        starts = torch.stack([rng.fold(keys[chosen], "loss path", start) for start in range(N_STARTS)], dim=1)
        path = loss_path(engine, x[copies], y[copies], threat, keys=starts.flatten(), attack=attack)
        paths = path.T.reshape(len(chosen), N_STARTS, -1)
    return {
        "indices": chosen.tolist(),
        "n_starts": N_STARTS,
        "loss": [[[round(value, 5) for value in run] for run in image] for image in paths.tolist()],
        "attack": settings(attack),
    }


def accuracy_against_steps(engine: Engine, x: Images, y: Labels, threat: Threat, seed: int) -> dict[str, Any]:
    """Attacked accuracy on the first `MAX_IMAGES` images after each step of one run of PGD-100 on the margin.

    An image that some step has broken stays broken. Where the curve still falls at its end, the search was too short
    (G6, I4); where it hardly falls at all, its gradient may lead nowhere. By the answers that the search sees.
    """
    x, y = x[:MAX_IMAGES], y[:MAX_IMAGES]
    attack = PGD(n_steps=100, loss="margin")
    keys = rng.image_keys(seed, torch.arange(len(x), device=x.device))
    right = engine.logits(x, keys=keys).argmax(dim=1) == y
    path = loss_path(engine, x[right], y[right], threat, keys=rng.fold(keys[right], "steps"), attack=attack)
    standing = (path.cummax(dim=0).values <= 0).sum(dim=1)
    return {"n": len(x), "attacked_accuracy": (standing / len(x)).tolist(), "attack": settings(attack)}


def loss_surfaces(engine: Engine, x: Images, y: Labels, threat: Threat, seed: int) -> dict[str, Any]:
    """The margin loss on a square around the first `N_SURFACES` images that the classifier gets right.

    One side runs along the steepest step of the gradient there, the other along that of a random direction, both from
    -eps to eps of the threat model, clipped to the box. `loss` [image][row along the gradient][column]. A gradient that
    means something shows a slope along its own side.
    """
    keys = rng.image_keys(seed, torch.arange(len(x), device=x.device))
    chosen = (engine.logits(x, keys=keys).argmax(dim=1) == y).nonzero().squeeze(1)[:N_SURFACES]
    x, y, keys = x[chosen], y[chosen], keys[chosen]
    surfaces = torch.empty(0, N_POINTS, N_POINTS)
    if len(chosen):
        gradient, _ = engine.gradient(x, y, margin, keys=keys)
        sides = [gradient, rng.normal(rng.fold(keys, "surface"), x.shape[1:])]
        along, across = (threat.eps * threat.ascent(side, x) for side in sides)
        steps = torch.linspace(-1, 1, N_POINTS, device=x.device)
        rows = [
            margin(engine.logits((x + a * along + b * across).clamp(0, 1), keys=keys), y) for a in steps for b in steps
        ]
        surfaces = torch.stack(rows, dim=1).view(len(x), N_POINTS, N_POINTS).cpu()
    return {
        "indices": chosen.tolist(),
        "loss": [[[round(value, 4) for value in row] for row in image] for image in surfaces.tolist()],
    }


def _grid(threat: Threat) -> list[float]:
    """Multiples of the audited eps; in linf a pixel cannot move by more than 1."""
    grid = [multiple * threat.eps for multiple in MULTIPLES]
    return sorted({min(eps, 1.0) for eps in grid}) if isinstance(threat, Linf) else grid
