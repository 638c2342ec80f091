"""Losses an attack maximises: one value per image, larger is worse for the classifier.

Each maps logits [batch, classes] and labels int64 [batch] to [batch]. With a `target`, a second class per image, the
loss grows as that class overtakes the label; `divergence` takes whole distributions [batch, classes] there.
"""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from casemate.errors import CasemateError

Logits = Float[Tensor, "batch classes"]
Labels = Int64[Tensor, "batch"]
Values = Float[Tensor, "batch"]


@runtime_checkable
class Loss(Protocol):
    """A loss per image; `target` [batch, ...] is what it grows towards or away from, where it has such a thing."""

    def __call__(self, logits: Logits, y: Labels, target: Tensor | None = None) -> Values: ...


def cross_entropy(logits: Logits, y: Labels, target: Tensor | None = None) -> Values:
    """-log softmax(z)_y; with a target, log softmax(z)_t (Madry et al. 2018, section 2.1)."""
    if target is None:
        return F.cross_entropy(logits, y, reduction="none")
    return -F.cross_entropy(logits, target, reduction="none")


def margin(logits: Logits, y: Labels, target: Tensor | None = None) -> Values:
    """max_{i != y} z_i - z_y, positive where the image is misclassified; with a target, z_t - z_y.

    The negative of Carlini & Wagner 2017's f_6 without its floor: the gradient does not vanish once it is fooled.
    """
    label = logits.gather(1, y[:, None]).squeeze(1)
    if target is None:
        return logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - label
    return logits.gather(1, target[:, None]).squeeze(1) - label


def dlr(logits: Logits, y: Labels, target: Tensor | None = None) -> Values:
    """Difference of logits ratio (Croce & Hein 2020, equations 6 and 7): a margin that ignores the logits' scale.

    Untargeted -(z_y - max_{i != y} z_i) / (z_(1) - z_(3)), for 3 classes and up; with a target
    -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), for 4 classes and up. z_(k) is the k-th largest logit.
    Raises `CasemateError` with fewer classes, where the denominator does not exist: use `margin` there.
    """
    least = 3 if target is None else 4
    if logits.shape[1] < least:
        kind = "DLR" if target is None else "targeted DLR"
        raise CasemateError(
            f"the {kind} loss needs at least {least} classes and this classifier has {logits.shape[1]}: use margin"
        )
    top = logits.topk(least, dim=1).values
    scale = top[:, 0] - (top[:, 2] if target is None else (top[:, 2] + top[:, 3]) / 2)
    return margin(logits, y, target) / scale.clamp(min=1e-12)


def divergence(logits: Logits, y: Labels, target: Tensor | None = None) -> Values:
    """KL(p || softmax(z)), p = `target` [batch, classes] the answer to move away from (Zhang et al. 2019, eq. 5)."""
    assert target is not None, "divergence needs the distribution it moves away from"
    return F.kl_div(logits.log_softmax(dim=1), target, reduction="none").sum(dim=1)


LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr}


def by_name(name: str) -> Loss:
    """The loss called `name`; raises `CasemateError` listing the known ones."""
    try:
        return LOSSES[name]
    except KeyError:
        raise CasemateError(f"unknown loss {name!r}: choose one of {', '.join(LOSSES)}") from None
