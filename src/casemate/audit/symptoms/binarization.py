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
from casemate.attacks import Attack, RandomPoints
from casemate.audit.symptoms.subject import Subject
from casemate.audit.symptoms.symptom import Symptom
from casemate.gradients import Engine, evaluating
from casemate.losses import margin
from casemate.threat import Images, with_eps

# Section 3.2 and the authors' code: points around the image, and the share of eps within which they lie.
N_INNER, INNER = 999, 0.95
# How far the boundary is moved from the points around to the one on the rim: so far that random points do not cross it.
CLOSENESS = 0.999
# Points that tell whether random search would do, and what the shares of success must be.
N_RANDOM = 400
PASS, PASS_BELOW, TOO_EASY = 0.95, 0.90, 0.05

Features = Float64[Tensor, "points features"]


def binarization(subject: Subject, attack: Attack, n_inner: int = N_INNER) -> Symptom:
    """BIN: on how many of the images does `attack` find the other class? One run of it for each image.

    The statistic is that share. Images for which no separating layer is found are left out. Skipped where the
    classifier does not end in a linear layer, or where no image is left; a warning that says so where random points
    find it too.
    """
    place = last_linear(subject.engine.model, subject.x[:1])
    if place is None:
        return Symptom(
            "BIN", "skip", float("nan"), "the classifier does not end in a linear layer that can be replaced"
        )
    found, easy = [], []
    for image in range(len(subject.x)):
        one = _one(subject, image)
        made = binarized(one, place, n_inner)
        if made is None:
            continue
        engine = Engine(made, precision=subject.engine.precision, draws=subject.engine.draws)
        two_classes = replace(one, engine=engine)
        found.append(_falls(two_classes, attack, "attack"))
        easy.append(_falls(two_classes, RandomPoints(N_RANDOM), "random"))
    if not found:
        return Symptom(
            "BIN", "skip", float("nan"), "the features separate no point on the rim from those around the image"
        )
    return _verdict(sum(found), sum(easy), len(found))


def binarized(one: Subject, place: str, n_inner: int) -> nn.Module | None:
    """The classifier with another last layer, at `place`, for the one image of the subject; None if none separates.

    Class 0 are the image and `n_inner` points within 0.95 eps of it, class 1 a corner of the ball, to which the
    boundary is as near as `CLOSENESS` says. The logits are (-s, s), s scaled to the range of the logits that the
    classifier gives the image.
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
    model = copy.deepcopy(one.engine.model)
    layer = nn.Linear(features.shape[1], 2)
    with torch.no_grad():
        layer.weight.copy_(scale / 2 * torch.stack([-weight, weight]))
        layer.bias.copy_(scale / 2 * torch.stack([-bias, bias]))
    model.set_submodule(place, layer.to(device=one.x.device, dtype=logits.dtype))
    return model


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

    Logistic regression without a penalty, in which either class has half the weight.
    """
    mean, spread = features.mean(dim=0), features.std(dim=0).clamp(min=1e-9)
    standard = (features - mean) / spread
    sign = torch.full((len(features),), -1.0, dtype=torch.float64, device=features.device)
    sign[-1] = 1
    share = torch.full_like(sign, 0.5 / (len(features) - 1))
    share[-1] = 0.5
    weight = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, device=features.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = (share * nn.functional.softplus(-sign * (standard @ weight + bias))).sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    with torch.no_grad():
        if not (sign * (standard @ weight + bias) > 0).all():
            return None
        return weight / spread, bias - (weight * mean / spread).sum()


def _falls(two_classes: Subject, attack: Attack, name: str) -> bool:
    x_adv = attack(
        two_classes.engine, two_classes.x, two_classes.y, two_classes.threat, keys=rng.fold(two_classes.keys, name)
    )
    return bool((margin(two_classes.engine.logits(x_adv, keys=two_classes.keys), two_classes.y) > 0).all())


def _one(subject: Subject, image: int) -> Subject:
    at = slice(image, image + 1)
    return replace(subject, x=subject.x[at], y=torch.zeros_like(subject.y[at]), keys=subject.keys[at])


def _verdict(n_found: int, n_easy: int, n: int) -> Symptom:
    share, easy = n_found / n, n_easy / n
    low = float(binomtest(n_found, n).proportion_ci(method="wilson").low)
    meaning = f"of {n} points that are certainly there the attack finds {share:.0%}, random points {easy:.0%}"
    if easy > TOO_EASY:
        return Symptom("BIN", "warn", share, f"{meaning}: the test is too easy to say anything", "more points around")
    if share < PASS or low < PASS_BELOW:
        return Symptom("BIN", "fail", share, meaning, "a stronger attack, by the remedies of the other symptoms")
    return Symptom("BIN", "pass", share, meaning)
