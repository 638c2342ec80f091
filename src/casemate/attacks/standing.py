"""Book-keeping for a batch under attack: the best point found for each image, and which images still stand."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from casemate import rng
from casemate.classifier import check_batch
from casemate.gradients import Classifier, Engine, engine_for
from casemate.losses import Labels, Logits, Values, margin
from casemate.threat import Images, Threat

# As Athalye et al. 2018 count an image of a randomised defence as broken: wrong ten times out of ten.
N_CONFIRMED = 10


@runtime_checkable
class Attack(Protocol):
    """A search for an image inside the threat model that the classifier gets wrong.

    Called with images [N, C, H, W] in [0, 1], labels int64 [N] and one key per image, it returns images of the same
    shape, each inside the threat model: an adversarial one where it found one, else the one of largest margin loss.
    """

    def __call__(self, model: Classifier, x: Images, y: Labels, threat: Threat, *, keys: rng.Keys) -> Images: ...


def excess(logits: Logits, y: Labels, targets: Labels | None = None) -> Values:
    """How far each image is beyond the goal of the attack, positive exactly where it is reached.

    Without targets the goal is any wrong class; with them it is that very class, ahead of all others.
    """
    return margin(logits, y) if targets is None else -margin(logits, targets)


class Standing:
    """The images an attack has not broken yet, and the best point found for every image.

    `index` [n] are the positions of the standing images in the batch; an attack works on those alone and calls
    `record` with what it found for them. An image that the classifier itself, in full precision, confirms to be
    broken leaves at once, so the cost of an attack is that of the images that resist it. A randomised classifier has to
    be wrong in each of `N_CONFIRMED` draws: what one draw gets wrong, the draw that decides would often get right.
    """

    def __init__(
        self, model: Classifier, x: Images, y: Labels, *, keys: rng.Keys, targets: Labels | None = None
    ) -> None:
        self.engine: Engine = engine_for(model)
        self.x, self.y, self.keys, self.targets = x, y, keys, targets
        self.best = x.clone()
        self.index: Int64[Tensor, "standing"] = torch.arange(len(x), device=x.device)
        self.clean_logits = self.engine.logits(x, keys=keys)
        n_classes = self.clean_logits.shape[1]
        check_batch(x, y, n_classes)
        if targets is not None:
            check_batch(x, targets, n_classes)
        self._best_excess = self._exact_excess(x, self.index, self.clean_logits)
        self.index = self.index[self._best_excess <= 0]

    def __bool__(self) -> bool:
        return len(self.index) > 0

    def record(self, x_adv: Images, found: Float[Tensor, "standing"]) -> Bool[Tensor, "standing"]:
        """Keep the better points among `x_adv` [n, ...], whose excess in the search is `found` [n].

        Returns which of the standing images still stand afterwards; `index` then names those.
        """
        candidates = (found > 0).nonzero().squeeze(1)
        if len(candidates):
            # What the low-precision search believes is broken is known by its exact value from here on.
            found = found.clone()
            found[candidates] = self._exact_excess(x_adv[candidates], self.index[candidates])
        return self._keep(x_adv, found)

    def record_exactly(self, x_adv: Images) -> None:
        """`record` for points whose excess the search does not know: one exact pass over them."""
        self._keep(x_adv, self._exact_excess(x_adv, self.index))

    def _keep(self, x_adv: Images, found: Float[Tensor, "standing"]) -> Bool[Tensor, "standing"]:
        better = found > self._best_excess[self.index]
        improved = self.index[better]
        self.best[improved] = x_adv[better]
        self._best_excess[improved] = found[better]
        # Not `found <= 0`: where the search found NaN there is no success, and the image stays.
        still = ~(found > 0)
        self.index = self.index[still]
        return still

    def _exact_excess(self, x_adv: Images, at: Int64[Tensor, "some"], logits: Logits | None = None) -> Values:
        """The least excess of the draws, of which `logits` may be the first, up to one where the goal is missed."""
        y, keys, targets = self.y[at], self.keys[at], None if self.targets is None else self.targets[at]
        found = excess(self.engine.logits(x_adv, keys=keys) if logits is None else logits, y, targets)
        for draw in range(1, N_CONFIRMED if self.engine.random_answers else 1):
            open_ = (found > 0).nonzero().squeeze(1)
            if len(open_):
                logits = self.engine.logits(x_adv[open_], keys=rng.fold(keys[open_], "confirmed", draw))
                another = excess(logits, y[open_], None if targets is None else targets[open_])
                found[open_] = torch.minimum(found[open_], another)
        return found
