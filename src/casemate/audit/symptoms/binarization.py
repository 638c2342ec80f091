"""The binarization test (Zimmermann et al. 2022, arXiv:2206.13991): can this attack find what is certainly there?

For each image a classifier of two classes is made on the features of the one that is defended, so that a point on the
rim of the threat model is of the other class and points all around the image are not. An attack that does not find
such a point may not claim that there is none on the classifier itself.
"""

import copy
from dataclasses import replace

import torch
from jaxtyping import Float64
from scipy.stats import binomtest
from torch import Tensor, nn

from casemate import rng
from casemate.attacks import Attack
from casemate.audit.symptoms.subject import Subject
from casemate.audit.symptoms.symptom import Symptom
from casemate.errors import CasemateError
from casemate.gradients import Engine, evaluating
from casemate.losses import margin
from casemate.precision import check_precision
from casemate.threat import Images, with_eps

# Points around the image, and the share of eps within which they lie (section 3.2). The paper takes 999 for a layer
# that is fitted without a penalty: with as many features as points it fits the points and not the ball, so that random
# points cross it.
N_INNER, INNER = 199, 0.95
# How far the covariance of the features is drawn towards a multiple of the identity.
SHRINKAGE = 0.5
# How far the boundary is moved from the points around to the one on the rim: so far that random points do not cross it.
CLOSENESS = 0.999
# Points that tell whether random search would do, as many in the ball and on its corners, and what the shares must be.
N_RANDOM = 200
PASS, PASS_BELOW, TOO_EASY = 0.95, 0.90, 0.05
# A fail asks for evidence too: as few successes as these have at most this probability for an attack that finds 95%.
SIGNIFICANCE = 0.01

Features = Float64[Tensor, "points features"]


def binarization(subject: Subject, attack: Attack, n_inner: int = N_INNER) -> Symptom:
    """BIN: on how many of the images does `attack` find the other class? One run of it for each image.

    The statistic is that share. Images for which no separating layer is found are left out. Skipped where the
    classifier is random or does not end in a linear layer, or where no image is left; a warning that says so where
    random points find it too.
    """
    if subject.engine.random_answers:
        return Symptom(
            "BIN", "skip", float("nan"), "the classifier is random: its features at one draw are not its own"
        )
    place = last_linear(subject.engine.model, subject.x[:1])
    if place is None:
        return Symptom(
            "BIN", "skip", float("nan"), "the classifier does not end in a linear layer that can be replaced"
        )
    found, easy = [], []
    for image in range(len(subject.x)):
        one = _one(subject, image)
        try:
            engine = binarized(one, place, n_inner)
        except CasemateError as reason:
            return Symptom("BIN", "skip", float("nan"), str(reason))
        if engine is None:
            continue
        two_classes = replace(one, engine=engine)
        found.append(_falls(two_classes, attack))
        easy.append(_falls_at_random(two_classes))
    if not found:
        return Symptom(
            "BIN", "skip", float("nan"), "the features separate no point on the rim from those around the image"
        )
    return _verdict(sum(found), sum(easy), len(found))


def binarized(one: Subject, place: str, n_inner: int) -> Engine | None:
    """The classifier with another last layer, at `place`, for the one image of the subject; None if none separates.

    Class 0 are the image and `n_inner` points within 0.95 eps of it, class 1 a corner of the ball, to which the
    boundary is as near as `CLOSENESS` says. The logits are (-s, s), s scaled to the range of the logits that the
    classifier gives the image. A stand-in for the gradient gets the same layer.

    Raises `CasemateError` for a stand-in that does not share that layer with the classifier.
    """
    direction = rng.normal(rng.fold(one.keys, "rim"), one.x.shape[1:])
    rim = one.threat.project(one.x + one.threat.eps * one.threat.ascent(direction, one.x), one.x)
    points = torch.cat([one.x, around(one, n_inner), rim])
    features, logits = _features(one.engine.model, place, points, one.keys)
    separating = _separating(features)
    if separating is None:
        return None
    weight, bias = separating
    scores = features @ weight + bias
    shift = scores[:-1].max() + CLOSENESS * (scores[-1] - scores[:-1].max())
    scores, bias = scores - shift, bias - shift
    scale = (logits[0].max() - logits[0].min()).double() / (scores.max() - scores.min())
    layer = nn.Linear(features.shape[1], 2)
    with torch.no_grad():
        layer.weight.copy_(scale / 2 * torch.stack([-weight, weight]))
        layer.bias.copy_(scale / 2 * torch.stack([-bias, bias]))
    return _with_last(one.engine, place, layer.to(device=one.x.device, dtype=logits.dtype))


def _with_last(engine: Engine, place: str, layer: nn.Linear) -> Engine:
    # Copied together, so that what they share stays shared.
    model, stand_in = copy.deepcopy((engine.model, engine.stand_in))
    last = model.get_submodule(place)
    holders = [_holders(whole, last) for whole in (model, stand_in) if whole is not None]
    if not all(holders):
        raise CasemateError("what stands in for the gradient has a last layer of its own")
    for parent, name in {at for each in holders for at in each}:
        setattr(parent, name, layer)
    precision = check_precision(engine.search_precision)
    return Engine(model, precision=precision, draws=engine.draws, stand_in=stand_in)


def _holders(whole: nn.Module, layer: nn.Module) -> list[tuple[nn.Module, str]]:
    """The modules in `whole` that have `layer`, and the names they have it by."""
    return [(parent, name) for parent in whole.modules() for name, child in parent.named_children() if child is layer]


def around(one: Subject, n_points: int) -> Images:
    """Points uniform in the threat model at 0.95 eps, [n_points, C, H, W]."""
    inner = with_eps(one.threat, INNER * one.threat.eps)
    # The number of a point is added before its key is mixed, as the generator itself counts.
    keys = rng.fold(one.keys + torch.arange(n_points, device=one.keys.device), "inner")
    return inner.sample(one.x.expand(n_points, -1, -1, -1), keys)


def last_linear(model: nn.Module, x: Images) -> str | None:
    """The name of the linear layer that is called last for images `x`, None where there is none."""
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name
    ]
    try:
        with evaluating(model), torch.no_grad(), rng.drawing_from(rng.image_keys(0, torch.arange(len(x)))):
            model(x.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return called[-1] if called else None


def _features(model: nn.Module, place: str, x: Images, keys: rng.Keys) -> tuple[Features, Tensor]:
    """What the layer at `place` is given for `x`, and the answers."""
    seen: list[Tensor] = []
    hook = model.get_submodule(place).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    answers = []
    try:
        with evaluating(model), torch.no_grad():
            for part in x.split(256):
                with rng.drawing_from(keys[:1].expand(len(part))):
                    answers.append(model(part.clone()))
    finally:
        hook.remove()
    return torch.cat(seen).double(), torch.cat(answers)


def _separating(features: Features) -> tuple[Float64[Tensor, "features"], Float64[Tensor, ""]] | None:
    """Weights and a bias that are positive on the last point and negative on all others; None if there are none found.

    The discriminant of Fisher between the last point and the others, whose covariance S is shrunk: w solves
    ((1 - a) S + a tr(S) / d I) w = f_last - mean, by the identity of Woodbury in as many unknowns as there are points.
    """
    others, last = features[:-1], features[-1]
    mean = others.mean(dim=0)
    centred, difference = others - mean, last - mean
    n, d = centred.shape
    share = (1 - SHRINKAGE) / n
    ridge = SHRINKAGE * centred.square().sum() / (n * d)
    if not ridge > 0:
        return None
    gram = share * centred @ centred.T + ridge * torch.eye(n, dtype=features.dtype, device=features.device)
    weight = (difference - share * centred.T @ torch.linalg.solve(gram, centred @ difference)) / ridge
    scores = features @ weight
    highest = scores[:-1].max()
    return (weight, -(scores[-1] + highest) / 2) if scores[-1] > highest else None


def _falls(two_classes: Subject, attack: Attack) -> bool:
    keys = rng.fold(two_classes.keys, "attack")
    x_adv = attack(two_classes.engine, two_classes.x, two_classes.y, two_classes.threat, keys=keys)
    return bool(_crossed(two_classes, x_adv).all())


def _falls_at_random(two_classes: Subject) -> bool:
    """Whether one of `N_RANDOM` points drawn from the threat model is of the other class, half of them on its rim."""
    n, threat = N_RANDOM // 2, two_classes.threat
    keys = rng.fold(two_classes.keys + torch.arange(n, device=two_classes.keys.device), "random")
    x = two_classes.x.expand(n, -1, -1, -1)
    outward = rng.normal(keys, x.shape[1:])
    rim = threat.project(x + threat.eps * threat.ascent(outward, x), x)
    return bool(_crossed(two_classes, torch.cat([threat.sample(x, keys), rim])).any())


def _crossed(two_classes: Subject, points: Images) -> Tensor:
    """Which of the points [n, C, H, W] around the one image are of the other class."""
    n = len(points)
    logits = two_classes.engine.logits(points, keys=two_classes.keys.expand(n))
    return margin(logits, two_classes.y.expand(n)) > 0


def _one(subject: Subject, image: int) -> Subject:
    at = slice(image, image + 1)
    return replace(subject, x=subject.x[at], y=torch.zeros_like(subject.y[at]), keys=subject.keys[at])


def _verdict(n_found: int, n_easy: int, n: int) -> Symptom:
    share, easy = n_found / n, n_easy / n
    low = float(binomtest(n_found, n).proportion_ci(method="wilson").low)
    meaning = f"of {n} points that are certainly there the attack finds {share:.0%}, random points {easy:.0%}"
    if easy > TOO_EASY:
        return Symptom("BIN", "warn", share, f"{meaning}: the test is too easy to say anything", "more points around")
    if share >= PASS and low >= PASS_BELOW:
        return Symptom("BIN", "pass", share, meaning)
    fails = binomtest(n_found, n, PASS, alternative="less").pvalue < SIGNIFICANCE
    return Symptom("BIN", "fail" if fails else "warn", share, meaning, "a stronger attack, or more images")
