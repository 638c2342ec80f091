"""Symptoms in the gradient that the attacks follow: G7, G8 and G9."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from casemate import rng
from casemate.audit.symptoms.subject import Subject
from casemate.audit.symptoms.symptom import Symptom
from casemate.errors import NoGradient
from casemate.losses import Values, cross_entropy, margin
from casemate.threat import Images

N_DIRECTIONS = 10
# Lengths of the steps of a difference in l2: one within the linear range of a network, one past a quantisation bin.
SHORT, LONG = 0.1, 1.0
# G8 fails beyond these; along the gradient's own sign a surrogate may still point upwards.
RELATIVE_ERROR, MISMATCH, STILL_UPWARDS = 0.3, 0.1, 0.05
# The images are drawn so far towards grey for G8, where steps of either length then stay inside the box.
TOWARDS_GREY = 0.1
# G9: two gradients an eighth of eps apart, and the cosine below which the landscape is noise to a step of that size.
NEARBY, NOISY = 1 / 8, 0.5


def unusable(subject: Subject) -> Symptom:
    """G7: is there a gradient at all?

    The statistic is the share of images where that of the margin loss is zero. An engine counts a gradient that is not
    finite as zero, and where the answers lead back to no image at all the share is 1. Where it is zero of the
    cross-entropy alone, the classifier is so sure that the softmax is flat.
    """
    remedy = "give the layer that cuts it off a surrogate, or estimate the gradient from scores"
    share = {}
    for name, loss in (("margin", margin), ("cross-entropy", cross_entropy)):
        try:
            gradient, _ = subject.engine.gradient(subject.x, subject.y, loss, keys=subject.keys)
        except NoGradient:
            return Symptom("G7", "fail", 1.0, "nothing leads from the answers back to the images", remedy)
        share[name] = float((gradient.flatten(1).abs().amax(dim=1) == 0).double().mean())
    if share["margin"] > 0:
        return Symptom(
            "G7",
            "fail",
            share["margin"],
            f"the gradient of the margin is zero or not finite for {share['margin']:.0%} of the images",
            remedy,
        )
    if share["cross-entropy"] > 0:
        return Symptom(
            "G7",
            "warn",
            share["cross-entropy"],
            f"the gradient of the cross-entropy is zero for {share['cross-entropy']:.0%} of the images, that of the "
            "margin for none: the softmax is saturated",
            "attack the margin or the difference of logits ratio",
        )
    return Symptom("G7", "pass", 0.0, "every image has a gradient of either loss")


@dataclass(frozen=True)
class Slope:
    """How the margin changes over a step, beside what the gradient says: the median error, the share of other signs."""

    error: float
    mismatch: float


def wrong(subject: Subject) -> Symptom:
    """G8: does the margin change as its gradient says?

    Central differences of the margin along `N_DIRECTIONS` random directions, with the draws of a random classifier
    fixed, at the images a tenth of the way to grey. The statistic is the median at the short step of
    |difference - g u| / max(|difference|, |g u|). A gradient that is wrong there, and along whose own sign the margin
    still grows over a long step, is a surrogate that attacks can use.
    """
    subject = replace(subject, x=(1 - TOWARDS_GREY) * subject.x + TOWARDS_GREY / 2)
    try:
        gradient, _ = subject.engine.gradient(subject.x, subject.y, margin, keys=subject.keys)
    except NoGradient:
        return Symptom("G8", "skip", 0.0, "there is no gradient to compare differences with")
    random = [
        _unit(rng.normal(rng.fold(subject.keys, "direction", number), subject.x.shape[1:]))
        for number in range(N_DIRECTIONS)
    ]
    found = _slope(subject, gradient, random, SHORT)
    if found.error <= RELATIVE_ERROR and found.mismatch <= MISMATCH:
        return Symptom(
            "G8", "pass", found.error, f"differences of the margin agree with its gradient to {found.error:.0%}"
        )
    meaning = (
        f"differences of the margin are {found.error:.0%} off what its gradient says, with another sign in "
        f"{found.mismatch:.0%} of the directions"
    )
    upwards = _difference(subject, _unit(gradient.sign()), LONG) > 0
    if float(upwards.double().mean()) > 1 - STILL_UPWARDS:
        return Symptom("G8", "warn", found.error, f"{meaning}; along its own sign it still points upwards")
    return Symptom("G8", "fail", found.error, meaning, "estimate the gradient from scores, or attack a stand-in")


def noise(subject: Subject) -> Symptom:
    """G9: does the gradient still point there an eighth of eps away?

    The statistic is the median over the images of the mean cosine with the gradients at `N_DIRECTIONS` points nearby.
    For information: a low one says that smoothed gradients are worth trying, a high one says nothing.
    """
    gradient, _ = subject.engine.gradient(subject.x, subject.y, margin, keys=subject.keys)
    cosines = []
    for number in range(N_DIRECTIONS):
        offset = 2 * rng.uniform(rng.fold(subject.keys, "nearby", number), subject.x.shape[1:]) - 1
        nearby = (subject.x + NEARBY * subject.threat.eps * offset).clamp(0, 1)
        there, _ = subject.engine.gradient(nearby, subject.y, margin, keys=subject.keys)
        cosines.append(torch.cosine_similarity(_unit(gradient).flatten(1), _unit(there).flatten(1)))
    cosine = float(torch.stack(cosines).mean(dim=0).median())
    meaning = f"the gradient an eighth of eps away has a cosine of {cosine:.2f} with that at the image"
    if cosine < NOISY:
        return Symptom("G9", "warn", cosine, meaning, "average the gradient over points nearby")
    return Symptom("G9", "pass", cosine, meaning)


def _slope(subject: Subject, gradient: Images, directions: list[Images], step: float) -> Slope:
    errors, others = [], []
    for direction in directions:
        difference = _difference(subject, direction, step)
        promised = (gradient.double() * direction.double()).flatten(1).sum(dim=1)
        largest = torch.maximum(difference.abs(), promised.abs())
        # Both zero: the gradient is right that nothing changes.
        errors.append(torch.where(largest > 0, (difference - promised).abs() / largest.clamp(min=1e-300), 0.0))
        others.append(difference.sign() != promised.sign())
    return Slope(float(torch.stack(errors).median()), float(torch.stack(others).double().mean()))


def _difference(subject: Subject, direction: Images, step: float) -> Float64[Tensor, "batch"]:
    """The central difference of the margin for a unit of length."""

    def value(x: Images) -> Values:
        return margin(subject.engine.logits(x, keys=subject.keys), subject.y)

    ahead, behind = value(subject.x + step * direction), value(subject.x - step * direction)
    return (ahead.double() - behind.double()) / (2 * step)


def _unit(direction: Images) -> Images:
    # Divided by the largest entry first, so that the squares of tiny gradients do not underflow.
    flat = direction.flatten(1)
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    return (flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)).view_as(direction)
