"""Projected gradient descent (Madry et al. 2018, section 2.1; Kurakin et al. 2017) in every norm of `threat`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from casemate import rng
from casemate.attacks.direction import or_random
from casemate.attacks.standing import Standing, excess
from casemate.errors import CasemateError
from casemate.gradients import Classifier, Engine, engine_for
from casemate.losses import Labels, Logits, Loss, Values, by_name
from casemate.threat import L1, Images, Threat


@dataclass(frozen=True)
class PGD:
    """x_{t+1} = project(x_t + step_size * ascent(gradient of the loss at x_t)), from a random start.

    `step_size` is in the units of eps; None is 2.5 eps / n_steps (10 eps / n_steps in l1), which reaches any point of
    the ball from any other (MadryLab/robustness). The paper's MNIST setting is `PGD(n_steps=40, step_size=0.01)` at
    linf 0.3, its CIFAR-10 setting `PGD(n_steps=20, step_size=2/255)` at linf 8/255. `loss` is a name in
    `casemate.losses`.

    `target_rank` k makes the loss a targeted one, towards the k-th most likely wrong class at the clean image; any
    wrong class still counts as broken. Calling with `targets` [N] instead asks for those very classes.

    Returns for each image the first point found that the classifier, in full precision, gets wrong; else the point
    of largest margin loss on the whole path. Cost: one forward pass for the clean check, then n_steps gradients and
    one forward pass for the images that still stand.
    """

    n_steps: int = 40
    step_size: float | None = None
    loss: str = "cross-entropy"
    random_start: bool = True
    target_rank: int | None = None

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise CasemateError(f"PGD needs at least 1 step, not {self.n_steps}")
        if self.step_size is not None and not self.step_size > 0:
            raise CasemateError(f"the step size of PGD must be positive, not {self.step_size}")
        check_goal(self.loss, self.target_rank)

    def __call__(
        self,
        model: Classifier,
        x: Images,
        y: Labels,
        threat: Threat,
        *,
        keys: rng.Keys,
        targets: Labels | None = None,
    ) -> Images:
        standing = Standing(model, x, y, keys=keys, targets=targets)
        towards = targets if self.target_rank is None else ranked_class(standing.clean_logits, y, self.target_rank)
        loss, step_size = by_name(self.loss), self.step_size_for(threat)
        at = standing.index
        x_adv = threat.sample(x[at], rng.fold(keys[at], "start")) if self.random_start else x[at]
        for step in range(self.n_steps):
            if not standing:
                return standing.best
            # The gradient at a point comes with the logits there, so the whole path is judged at no extra cost.
            target = None if towards is None else towards[at]
            step_keys = rng.fold(keys[at], step)
            gradient, logits = standing.engine.gradient(x_adv, y[at], loss, target=target, keys=step_keys)
            still = standing.record(x_adv, excess(logits, y[at], None if targets is None else targets[at]))
            at = standing.index
            x_adv = _step(x_adv[still], gradient[still], x[at], threat, step_size, step_keys[still])
        standing.record_exactly(x_adv)
        return standing.best

    def step_size_for(self, threat: Threat) -> float:
        if self.step_size is not None:
            return self.step_size
        # A sparse l1 step moves few values, so that it takes longer ones to reach the best of the ball.
        travel = 10 if isinstance(threat, L1) else 2.5
        return travel * threat.eps / self.n_steps


def maximise(
    engine: Engine,
    x: Images,
    y: Labels,
    threat: Threat,
    *,
    keys: rng.Keys,
    start: Images,
    n_steps: int,
    step_size: float,
    loss: Loss,
    target: Tensor | None = None,
    observe: Callable[[int, Values], None] | None = None,
    momentum: float = 0.0,
) -> Images:
    """The inner maximisation of the saddle point (Madry et al. 2018, equation 2.1) as training uses it.

    `n_steps` steps from `start` for every image, broken or not; returns the last iterate, as the paper's training
    does. `observe(step, values)` is told the loss [N] at each point before its step, and at the last point. With
    `momentum`, a step follows that share of what the last one followed plus the gradient over its l1 norm (MI-FGSM:
    Dong et al. 2018, equation 6).
    """
    x_adv = start
    followed: Tensor | None = None
    for step in range(n_steps):
        step_keys = rng.fold(keys, step)
        gradient, logits = engine.gradient(x_adv, y, loss, target=target, keys=step_keys)
        if observe is not None:
            observe(step, loss(logits, y, target))
        if momentum:
            size = gradient.flatten(1).abs().sum(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
            gradient = gradient / size.view(-1, *[1] * (gradient.ndim - 1))
            if followed is not None:
                gradient = gradient + momentum * followed
            followed = gradient
        x_adv = _step(x_adv, gradient, x, threat, step_size, step_keys)
    if observe is not None:
        observe(n_steps, loss(engine.logits(x_adv, keys=keys), y, target))
    return x_adv


def loss_path(model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys, attack: PGD) -> Tensor:
    """The loss at every point of one run of `attack` per image, float32 [n_steps + 1, N] (Madry et al., figure 1)."""
    values: list[Values] = []
    start = threat.sample(x, rng.fold(keys, "start")) if attack.random_start else x
    maximise(
        engine_for(model),
        x,
        y,
        threat,
        keys=keys,
        start=start,
        n_steps=attack.n_steps,
        step_size=attack.step_size_for(threat),
        loss=by_name(attack.loss),
        observe=lambda _, loss: values.append(loss),
    )
    return torch.stack(values)


def check_goal(loss: str, target_rank: int | None) -> None:
    """Refuse an unknown loss, and a rank that no wrong class has, with a `CasemateError`."""
    by_name(loss)
    if target_rank is not None and target_rank < 1:
        raise CasemateError(f"target_rank counts wrong classes from 1, so {target_rank} is not one")


def ranked_class(logits: Logits, y: Labels, rank: int) -> Labels:
    """The class with the `rank`-th largest logit among the wrong ones, int64 [N]; the last where there are fewer."""
    wrong = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
    return wrong[:, min(rank, logits.shape[1] - 1) - 1]


def _step(x_adv: Images, gradient: Images, x: Images, threat: Threat, step_size: float, keys: rng.Keys) -> Images:
    gradient = or_random(gradient, keys)
    return threat.project(x_adv + step_size * threat.ascent(gradient, x_adv), x)
