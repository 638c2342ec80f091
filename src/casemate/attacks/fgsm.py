"""The fast gradient sign method (Goodfellow et al. 2015), and its random-start form (Tramer et al. 2018)."""

from dataclasses import dataclass

from casemate import rng
from casemate.attacks.pgd import PGD
from casemate.gradients import Classifier
from casemate.losses import Labels
from casemate.threat import Images, Threat


@dataclass(frozen=True)
class FGSM:
    """One step of size eps from the clean image, or from a random point of the ball with `random_start`.

    In l2 and l1 the step is that of the norm (the fast gradient method). Cost: one gradient and two forward passes.
    """

    loss: str = "cross-entropy"
    random_start: bool = False

    def __call__(
        self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys, targets: Labels | None = None
    ) -> Images:
        one_step = PGD(n_steps=1, step_size=threat.eps, loss=self.loss, random_start=self.random_start)
        return one_step(model, x, y, threat, keys=keys, targets=targets)
