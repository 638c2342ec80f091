"""Does a certifier prove only what is true, and the same whatever the batch?"""

import torch
from torch import Tensor, nn

from casemate import rng
from casemate.attacks import FGSM, PGD
from casemate.bounds import Certificate, Certifier
from casemate.losses import Labels, margin
from casemate.testing import models
from casemate.testing.conformance import leaving_no_trace, refusing, require, running
from casemate.threat import Images, Linf

SHAPE = (1, 6, 6)
EPS = (0.002, 0.01, 0.05, 0.3)
# Points of each ball at which what is called certified is looked at.
N_POINTS = 200


def check_certifier(certifier: Certifier) -> None:
    """Raise `ConformanceError`, one sentence that names the first promise `certifier` breaks; else return None.

    On linear, convolutional and residual classifiers of images [1, 6, 6], under linf at several eps:

    - the certificate has `holds` (bool), `margin` and `radius` (float64), [N] each, and a confidence in (0, 1];
      `radius` is not below eps where it holds, and 0 elsewhere; an empty batch works;
    - a misclassified image is never certified;
    - no point of the ball, drawn at random or found by attacks, is misclassified or has a smaller margin than is
      proved, nor, for a linear classifier, is the least margin in closed form smaller;
    - something is proved where eps is tiny;
    - what is proved of an image does not depend on its batch;
    - the model, its arguments and the global random state are left as they were;
    - a classifier that draws at random is refused, unless the confidence is below 1.
    """
    who = type(certifier).__name__
    for model in (models.Linear(SHAPE), models.rectified(SHAPE), models.rectified(SHAPE, residual=True)):
        x = models.images(20, SHAPE)
        x[0], x[1] = 0, 1
        y = model(x).argmax(dim=1)
        for eps in EPS:
            _check_proofs(certifier, model, x, y, Linf(eps), who)
        found = _certificate(certifier, model, x, y, Linf(1e-5), who)
        sure = -margin(model(x), y) > 0.1
        require(bool(found.holds[sure].any()), f"{who} proves nothing, not even that eps of 0.00001 changes nothing")
        _check_batches(certifier, model, x, y, who)
    if found.confidence == 1:
        noisy = nn.Sequential(models.Noisy(), models.Linear(SHAPE))
        with refusing(f"{who} was given a classifier that draws at random"):
            certifier.certify(noisy, x, y, Linf(0.01), keys=_keys(x))


def _keys(x: Images) -> rng.Keys:
    return rng.image_keys(0, torch.arange(len(x)))


def _certificate(
    certifier: Certifier, model: nn.Module, x: Images, y: Labels, threat: Linf, who: str, at: slice = slice(None)
) -> Certificate:
    with running(who):
        found = certifier.certify(model, x[at], y[at], threat, keys=_keys(x)[at])
    n = len(x[at])
    for name, dtype in (("holds", torch.bool), ("margin", torch.float64), ("radius", torch.float64)):
        value = getattr(found, name)
        require(
            isinstance(value, Tensor) and value.dtype == dtype and tuple(value.shape) == (n,),
            f"{who} must return {name} as {str(dtype).removeprefix('torch.')} [{n}]",
        )
    require(0 < found.confidence <= 1, f"{who} has a confidence of {found.confidence}, which is not in (0, 1]")
    return found


def _check_proofs(certifier: Certifier, model: nn.Module, x: Images, y: Labels, threat: Linf, who: str) -> None:
    with leaving_no_trace(who, model, x=x, y=y):
        found = _certificate(certifier, model, x, y, threat, who)
    holds = found.holds
    require(
        bool((found.radius[holds] >= threat.eps).all()) and not bool(found.radius[~holds].any()),
        f"{who} must give a radius of at least eps where its certificate holds, and 0 elsewhere",
    )
    wrong = (y + 1) % models.N_CLASSES
    require(
        not bool(_certificate(certifier, model, x, wrong, threat, who).holds.any()),
        f"{who} certified images that the classifier gets wrong",
    )
    least = _least_margins(model, x, y, threat)
    require(
        not bool((holds & (least <= 0)).any()),
        f"{who} certified images that have a misclassified point within {threat}",
    )
    if found.confidence == 1:
        require(
            bool((found.margin[holds] <= least[holds]).all()),
            f"{who} proved a larger margin than a point within {threat} has",
        )


def _least_margins(model: nn.Module, x: Images, y: Labels, threat: Linf) -> Tensor:
    """The smallest margin [N] of the label that any of many points has, or any at all."""
    keys = _keys(x)
    if isinstance(model, models.Linear):
        # The margin of class 0 against 1 is minus what `gain` speaks of; of class 1 against 0 it is that itself.
        toward = torch.where(y == 0, model.gain(x, threat), _fall(model, x, threat))
        return -margin(model(x), y).double() - model.scale * toward
    points = [threat.sample(x, rng.fold(keys, "point", number)) for number in range(N_POINTS)]
    points += [attack(model, x, y, threat, keys=keys) for attack in (FGSM(), PGD(n_steps=20, loss="margin"))]
    with torch.no_grad():
        return torch.stack([-margin(model(point), y) for point in points]).amin(dim=0).double()


def _fall(model: models.Linear, x: Images, threat: Linf) -> Tensor:
    """The most by which w x falls, which is how far it rises on the images turned over."""
    return model.gain(1 - x, threat)


def _check_batches(certifier: Certifier, model: nn.Module, x: Images, y: Labels, who: str) -> None:
    whole = _certificate(certifier, model, x, y, Linf(0.01), who)
    for at in (slice(3, 4), slice(7, 16), slice(0, 0)):
        part = _certificate(certifier, model, x, y, Linf(0.01), who, at)
        require(
            torch.equal(part.holds, whole.holds[at]) and torch.allclose(part.margin, whole.margin[at], rtol=1e-6),
            f"{who} proved something else of the same images in another batch",
        )
