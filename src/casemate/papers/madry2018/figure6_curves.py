"""Accuracy against eps: what PGD leaves at each eps by itself, and what minimum-norm attacks leave at every eps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from casemate import attacks, rng
from casemate.attacks import Attack, Boundary, MinimumNorm, Worst, distance_path, evaluate
from casemate.gradients import Engine
from casemate.papers.evaluation import Accuracy, Evaluation
from casemate.papers.item import Setting
from casemate.threat import L2, Distances, Linf

NORMS: dict[str, type[Linf] | type[L2]] = {"linf": Linf, "l2": L2}

# The networks of the figure.
IN_LINF, IN_L2 = "linf-trained", "l2-trained"
# The attacks of its curves.
PGD, ALONE, HOPSKIPJUMP, DDN, LEAST = "PGD", "PGD, each eps by itself", "HopSkipJump", "DDN", "least of all"

# At every eps, with the step of MadryLab/robustness, 2.5 eps / n_steps.
AT_EPS: Attack = Worst((attacks.PGD(n_steps=100), attacks.PGD(n_steps=100, loss="margin")))
# The paper's number of steps of the Boundary attack, twice and four times as many.
STEPS = (2000, 4000, 8000)
# Steps of a walk between two that are kept.
KEPT_EVERY = 100
JUMPS: dict[Setting, attacks.HopSkipJump] = {"small": attacks.HopSkipJump(n_steps=20), "full": attacks.HopSkipJump()}
GRADIENTS = attacks.DDN(n_steps=300)


def walk_of(n_steps: int) -> str:
    return f"Boundary, {n_steps:,} steps"


@dataclass(frozen=True, eq=False)
class Found:
    """What an attack came to on each image [n], in the units of eps.

    `radius` is from where on it counts as successful, `distance` that of the nearest misclassified point it found: the
    same for a minimum-norm attack. 0 where the image is misclassified as it is, inf where nothing was found.
    """

    radius: Distances
    distance: Distances

    def left(self, grid: Sequence[float]) -> list[Accuracy]:
        """What is left of the accuracy at each eps."""
        return [Accuracy(int((self.radius > eps).sum()), len(self.radius)) for eps in grid]


@dataclass(frozen=True, eq=False)
class Sweep:
    """The attack at each eps of `grid` by itself: whether it broke each image, [eps, n], and the nearest points."""

    grid: tuple[float, ...]
    broken: Bool[Tensor, "eps n"]
    distance: Distances

    def found(self) -> Found:
        """What is broken at one eps is broken at every larger one, since the larger ball contains the smaller."""
        never = torch.ones_like(self.broken[:1])
        first = torch.cat([self.broken, never]).byte().argmax(dim=0)
        radii = torch.tensor([*self.grid, torch.inf], dtype=torch.float64, device=first.device)
        return Found(radii[first], self.distance)

    def alone(self) -> list[Accuracy]:
        """What is left at each eps by the attack at that eps alone, which may miss what a smaller one has."""
        return [Accuracy(int((~broken).sum()), len(broken)) for broken in self.broken]


def sweep(engine: Engine, judged: Evaluation, norm: str, grid: tuple[float, ...]) -> Sweep:
    """`grid` begins with 0, at which the attack is none."""
    broken: list[Tensor] = []
    distance = torch.full((len(judged.x),), torch.inf, dtype=torch.float64, device=judged.x.device)
    for eps in grid[1:]:
        ball = NORMS[norm](eps)
        at_eps = evaluate(engine, judged.x, judged.y, ball, AT_EPS, seed=judged.seed)
        broken = broken or [~at_eps.right_before]
        broken.append(~at_eps.right_after)
        reached = ball.measure(at_eps.x_adv, judged.x).masked_fill(at_eps.right_after, torch.inf)
        distance = torch.minimum(distance, reached)
    return Sweep(grid, torch.stack(broken), distance.masked_fill(broken[0], 0))


def walk(engine: Engine, judged: Evaluation) -> Float64[Tensor, "points n"]:
    """The distance after every step of the longest walk of the Boundary attack, the start included."""
    return distance_path(engine, judged.x, judged.y, L2(1), keys=_keys(judged, "boundary"), attack=Boundary(STEPS[-1]))


def nearest(engine: Engine, judged: Evaluation, attack: MinimumNorm) -> Found:
    distance = attack.nearest(engine, judged.x, judged.y, L2(1), keys=_keys(judged, "nearest")).distance
    return Found(distance, distance)


def least(found: Iterable[Found]) -> Found:
    """The minimum over attacks for each image: the tightest upper bound known on its smallest change."""
    distance = torch.stack([each.distance for each in found]).amin(dim=0)
    return Found(distance, distance)


def accuracy_frame(swept: Sweep, found: Mapping[str, Found]) -> pl.DataFrame:
    """One row for each attack and eps: what every attack leaves, and PGD at each eps by itself."""
    left = {attack: each.left(swept.grid) for attack, each in found.items()} | {ALONE: swept.alone()}
    return pl.DataFrame(
        [
            {"attack": attack, "eps": eps, **accuracy.columns()}
            for attack, accuracies in left.items()
            for eps, accuracy in zip(swept.grid, accuracies, strict=True)
        ]
    )


def distance_frame(found: Mapping[str, Found]) -> pl.DataFrame:
    """One row for each attack and image."""
    return pl.concat(
        pl.DataFrame({"radius": each.radius.cpu().numpy(), "distance": each.distance.cpu().numpy()})
        .with_row_index("image")
        .select(pl.lit(attack).alias("attack"), pl.all())
        for attack, each in found.items()
    )


def walk_frame(path: Float64[Tensor, "points n"]) -> pl.DataFrame:
    """One row for each step that is kept and each image."""
    steps = torch.arange(0, len(path), KEPT_EVERY)
    n = path.shape[1]
    return pl.DataFrame(
        {
            "step": steps.repeat_interleave(n).numpy(),
            "image": torch.arange(n).repeat(len(steps)).numpy(),
            "distance": path[steps].flatten().cpu().numpy(),
        }
    )


def _keys(judged: Evaluation, procedure: str) -> rng.Keys:
    return rng.fold(rng.image_keys(judged.seed, torch.arange(len(judged.x), device=judged.x.device)), procedure)
