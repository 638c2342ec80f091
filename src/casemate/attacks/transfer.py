"""Black-box transfer: adversarial images made on another classifier (Madry et al. 2018, table 1)."""

from dataclasses import dataclass, field

from torch import nn

from casemate import rng
from casemate.attacks.pgd import PGD, maximise
from casemate.attacks.standing import Standing
from casemate.errors import CasemateError
from casemate.gradients import Classifier, engine_for
from casemate.losses import Labels, by_name
from casemate.threat import Images, Threat


@dataclass(frozen=True)
class Transfer:
    """All steps of `attack` on `source`, the last iterate handed to the attacked classifier.

    The search does not stop where the source is fooled: a point deep in the source's wrong region transfers better.
    The attacked classifier is asked for logits only, twice per image. `name` says in reports what the source is.
    """

    source: nn.Module = field(repr=False)
    attack: PGD = PGD(n_steps=100)
    name: str = "source"

    def __post_init__(self) -> None:
        if self.attack.target_rank is not None:
            raise CasemateError("Transfer is untargeted: give it a PGD without target_rank")

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images:
        standing = Standing(model, x, y, keys=keys)
        if standing:
            at = standing.index
            start_keys = rng.fold(keys[at], "start")
            crafted = maximise(
                engine_for(self.source),
                x[at],
                y[at],
                threat,
                keys=keys[at],
                start=threat.sample(x[at], start_keys) if self.attack.random_start else x[at],
                n_steps=self.attack.n_steps,
                step_size=self.attack.step_size_for(threat),
                loss=by_name(self.attack.loss),
            )
            standing.record_exactly(crafted)
        return standing.best
