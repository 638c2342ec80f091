"""Indicators of attack failure (Pintor et al. 2022, arXiv:2106.09947, section 3): I2, I3 and I4.

The others are symptoms by another name: I1 is G7, I5 a transferred attack of G2, and I6 is G3.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from casemate import rng
from casemate.audit.symptoms.subject import Subject
from casemate.audit.symptoms.symptom import Symptom
from casemate.losses import Values, margin

# The loss [n_steps + 1, N] that an attack minimises, at every point of its path, the start among them.
Path = Float[Tensor, "points batch"]

# I2: so many draws of so wide a cube, and the change of the loss there at which it counts as unstable.
N_DRAWS, WIDTH, UNSTABLE = 100, 8 / 255, 0.1
# I4: the loss may fall by this share of its range over so many of the last steps.
STILL_FALLING, LAST = 0.05, 10


def unstable(subject: Subject) -> Symptom:
    """I2: does the margin jump about within a small cube around the image?

    The statistic is the mean over images and draws of |l(x) - l(x + u)| / |l(x)|, at most 1, with u uniform in a cube
    8/255 wide.
    """
    at = margin(subject.engine.logits(subject.x, keys=subject.keys), subject.y)
    size = torch.where(at == 0, torch.ones_like(at), at.abs())
    total = 0.0
    for draw in range(N_DRAWS):
        offset = WIDTH * (rng.uniform(rng.fold(subject.keys, "cube", draw), subject.x.shape[1:]) - 0.5)
        nearby: Values = margin(subject.engine.logits((subject.x + offset).clamp(0, 1), keys=subject.keys), subject.y)
        total += float(((at - nearby).abs() / size).clamp(max=1).mean())
    change = total / N_DRAWS
    meaning = f"the margin changes by {change:.1%} within 4/255 of an image"
    if change > UNSTABLE:
        return Symptom("I2", "warn", change, meaning, "average the loss and its gradient over points nearby")
    return Symptom("I2", "pass", change, meaning)


def silent_success(path: Path, broken: Bool[Tensor, "batch"], *, random: bool = False) -> Symptom:
    """I3: did the attack pass a wrong point and return a right one?

    `path` holds the margins z_y - max z_j along the attack, negative where the image is wrong; the statistic is the
    share of images that it passed so, of those it did not break. It is skipped for a `random` classifier, which gets
    many a point wrong in one draw and right in the next.
    """
    if random:
        return Symptom("I3", "skip", 0.0, "the classifier is random: a point that one draw gets wrong is no success")
    share = float(((path[:-1] < 0).any(dim=0) & ~broken).double().mean())
    if share > 0:
        return Symptom(
            "I3",
            "fail",
            share,
            f"for {share:.1%} of the images the attack passed a wrong point and returned a right one",
            "return the best point of the path, not the last",
        )
    return Symptom("I3", "pass", share, "the attack returns what it finds")


def incomplete(path: Path) -> Symptom:
    """I4: was the loss still falling at the end?

    On each image the loss is rescaled to [0, 1] and replaced by its running minimum; the statistic is the share of
    images where that fell by more than 0.05 over the last 10 points.
    """
    low, high = path.amin(dim=0), path.amax(dim=0)
    scaled = (path - low) / (high - low).clamp(min=torch.finfo(path.dtype).tiny)
    running = scaled.cummin(dim=0).values[-min(LAST, len(path)) :]
    share = float((running[0] - running[-1] > STILL_FALLING).double().mean())
    meaning = f"for {share:.1%} of the images the loss was still falling when the attack ended"
    if share > 0:
        return Symptom("I4", "warn", share, meaning, "more steps, or longer ones")
    return Symptom("I4", "pass", share, "the loss had stopped falling when the attack ended")
