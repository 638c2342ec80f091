"""APGD, projected gradient ascent that sets its own steps (Croce & Hein 2020, arXiv:2003.01690; 2021, 2103.01208)."""

from dataclasses import dataclass
from typing import Any

from casemate import rng
from casemate.attacks.apgd_momentum import MomentumPath
from casemate.attacks.apgd_path import Path
from casemate.attacks.apgd_sparse import SparsePath
from casemate.attacks.pgd import check_goal, ranked_class
from casemate.attacks.standing import Standing, excess
from casemate.errors import CasemateError
from casemate.gradients import Classifier
from casemate.losses import Labels, by_name
from casemate.threat import L1, Images, Threat


@dataclass(frozen=True)
class APGD:
    """Ascent whose steps are halved, image by image, where the loss has stopped growing, from the best point on.

    In linf and l2 a step has momentum and is 2 eps long at first (`apgd_momentum`, algorithm 1 of 2020). In l1 it
    changes few values at a time, in balls of 3, 2 and 1 eps in turn (`apgd_sparse`, section 3 of 2021).

    `loss` is a name in `casemate.losses`; AutoAttack's APGD-CE and APGD-DLR are `APGD()` and `APGD(loss="dlr")`, and
    its APGD-T is `MultiTarget(APGD(loss="dlr"))`. `target_rank` and `targets` are as in `PGD`.

    Returns for each image the first point found that the classifier, in full precision, gets wrong; else the point of
    largest margin loss met inside the threat model. Cost: a forward pass for the clean check, n_steps gradients, and a
    forward pass for the images that still stand.
    """

    n_steps: int = 100
    loss: str = "cross-entropy"
    target_rank: int | None = None

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise CasemateError(f"APGD needs at least 1 step, not {self.n_steps}")
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
        loss, at = by_name(self.loss), standing.index
        path = self._path(x[at], threat, rng.fold(keys[at], "start"))
        for step in range(self.n_steps):
            if not standing:
                return standing.best
            target = None if towards is None else towards[at]
            step_keys = rng.fold(keys[at], step)
            gradient, logits = standing.engine.gradient(path.x_adv, y[at], loss, target=target, keys=step_keys)
            values = loss(logits, y[at], target)
            if path.judged:
                still = standing.record(path.x_adv, excess(logits, y[at], None if targets is None else targets[at]))
                if len(standing.index) < len(at):
                    path.keep(still)
                    at, values, gradient, step_keys = standing.index, values[still], gradient[still], step_keys[still]
            path.move(values, gradient, step_keys)
        standing.record_exactly(path.x_adv)
        return standing.best

    def _path(self, x: Images, threat: Threat, keys: rng.Keys) -> Path[Any]:
        if isinstance(threat, L1):
            return SparsePath(x, threat, self.n_steps, keys)
        return MomentumPath(x, threat, self.n_steps, keys)
