"""Symptoms that one attack has by the side of another: G1, G2, G3, G4, G5, G6, G13 and G14.

Each attack is run on the same images from the same keys, and what it breaks is judged by the classifier itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from casemate import rng
from casemate.attacks import Attack
from casemate.attacks.standing import N_CONFIRMED
from casemate.audit.symptoms.paired import Pair, compared, significant
from casemate.audit.symptoms.subject import Subject
from casemate.audit.symptoms.symptom import Status, Symptom
from casemate.losses import margin
from casemate.threat import L1, L2, Images, Linf, Threat, with_eps

Broken = Bool[Tensor, "batch"]

# Budgets in units of eps for G5; success that grows by less than PLATEAU from eps to four times eps has stalled.
SCALES = (1 / 4, 1 / 2, 1, 2, 4, 8)
PLATEAU = 0.05
# G6: what twice the effort may change where the first was enough.
ACCURACY_MOVES, MARGIN_MOVES = 0.005, 0.01


@dataclass(frozen=True, eq=False)
class Result:
    """What an attack made of the images, which of them it broke, and the margins there [n]."""

    x_adv: Images
    broken: Broken
    margin: Tensor


def attacked(subject: Subject, attack: Attack, name: str, threat: Threat | None = None) -> Result:
    """`attack`, whose draws are its own by its `name`, on the images, in another threat model where one is given."""
    threat = threat or subject.threat
    x_adv = attack(subject.engine, subject.x, subject.y, threat, keys=rng.fold(subject.keys, name))
    logits = subject.engine.logits(x_adv, keys=subject.keys)
    return Result(x_adv, logits.argmax(dim=1) != subject.y, margin(logits, subject.y))


def inert(subject: Subject, found: Result) -> Symptom:
    """G13: did the attack do anything? The statistic is the share of images that it moved."""
    moved = float((subject.threat.measure(found.x_adv, subject.x) > 0).double().mean())
    if moved == 0:
        return Symptom(
            "G13",
            "fail",
            moved,
            "the attack returned every image as it was",
            "run it on the classifier that is deployed",
        )
    return Symptom("G13", "pass", moved, f"the attack moved {moved:.0%} of the images")


def constrained(subject: Subject, found: Result) -> Symptom:
    """G14: are the attack's points images of the threat model? The statistic is the share that are not."""
    outside = float((~subject.threat.contains(found.x_adv, subject.x)).double().mean())
    if outside > 0:
        meaning = f"{outside:.0%} of the attack's points are no images of the threat model"
        return Symptom("G14", "fail", outside, meaning, "project each point onto ball and box before it is judged")
    return Symptom("G14", "pass", outside, "all of the attack's points are images of the threat model")


def upsets(pairs: Sequence[tuple[str, str, Pair]], remedies: Mapping[str, str]) -> list[Symptom]:
    """One symptom for each check whose weaker attacks are among `pairs`: the check's id, the weaker attack's name, the
    pair of it and the stronger one. Corrected for their number.

    The worst pair of a check counts. The statistic is the number of images that only that weaker attack broke.
    """
    rejected = significant([pair.p_value for _, _, pair in pairs])
    found: dict[str, Symptom] = {}
    for (check, name, pair), is_significant in zip(pairs, rejected, strict=True):
        status = pair.status(significant=is_significant)
        meaning = (
            f"{name} against the gradient: {pair.weaker_only} of {pair.n} images fall to the weaker alone, "
            f"{pair.stronger_only} to the stronger alone"
        )
        symptom = Symptom(check, status, pair.weaker_only, meaning, "" if status == "pass" else remedies[check])
        if check not in found or _severity(symptom) > _severity(found[check]):
            found[check] = symptom
    return list(found.values())


def _severity(symptom: Symptom) -> tuple[int, float]:
    return ("pass", "warn", "fail").index(symptom.status), symptom.statistic


def unbounded(subject: Subject, attack: Attack) -> Symptom:
    """G3: does the attack break everything once the whole box is allowed?

    The statistic is the share of images that it leaves. Every image can become any other then. Of a randomised
    classifier the mean over draws decides, for the attack ends where ten draws are wrong, and the next may be right.
    """
    x_adv = attacked(subject, attack, "unbounded", whole_box(subject.threat, subject.x)).x_adv
    logits = subject.engine.logits(x_adv, keys=subject.keys)
    for draw in range(1, N_CONFIRMED if subject.engine.random_answers else 1):
        logits = logits + subject.engine.logits(x_adv, keys=rng.fold(subject.keys, draw))
    left = float((logits.argmax(dim=1) == subject.y).double().mean())
    if left > 0:
        return Symptom(
            "G3",
            "fail",
            left,
            f"with the whole box allowed the attack still leaves {left:.0%} of the images: it does not follow the loss",
            "mend the gradient (G7, G8), or attack from scores",
        )
    return Symptom("G3", "pass", left, "with the whole box allowed the attack breaks every image")


def whole_box(threat: Threat, x: Images) -> Threat:
    """The threat model of the same norm that holds all images."""
    n = x[0].numel()
    radius = {Linf: 1.0, L2: n**0.5, L1: float(n)}
    return with_eps(threat, next(eps for norm, eps in radius.items() if isinstance(threat, norm)))


def budgets(subject: Subject, attack: Attack, n_classes: int) -> tuple[Symptom, dict[float, float]]:
    """G5: does more distortion break more? Independent runs at a quarter of eps to eight times it.

    Fails where a smaller budget is the stronger beyond chance; warns where four times eps breaks hardly more than eps
    and is not yet down to chance. The statistic is the largest number of images that only the smaller of two
    neighbouring budgets broke. Also returns the accuracy at each eps.
    """
    results = {}
    for scale in SCALES:
        threat = with_eps(subject.threat, scale * subject.threat.eps)
        results[scale] = attacked(subject, attack, f"budget {scale:g}", threat).broken
    pairs = [compared(results[low], results[high]) for low, high in zip(SCALES, SCALES[1:], strict=False)]
    accuracy = {scale * subject.threat.eps: float((~broken).double().mean()) for scale, broken in results.items()}
    worst = max(pairs, key=lambda pair: pair.weaker_only)
    fails = any(
        out and pair.weaker_only > pair.stronger_only
        for pair, out in zip(pairs, significant([pair.p_value for pair in pairs]), strict=True)
    )
    at_eps, at_four = (float((~results[scale]).double().mean()) for scale in (1, 4))
    stalled = at_four > at_eps - PLATEAU and at_four > 1 / n_classes
    status: Status = "fail" if fails else "warn" if stalled else "pass"
    meaning = f"accuracy is {at_eps:.0%} at eps and {at_four:.0%} at four times eps"
    if fails:
        meaning = f"a smaller budget breaks {worst.weaker_only} images that a larger one does not, beyond chance"
    remedy = "" if status == "pass" else "another loss, smaller steps, or gradients from scores"
    return Symptom("G5", status, worst.weaker_only, meaning, remedy), accuracy


def convergence(first: Result, twice: Result) -> Symptom:
    """G6: does twice the effort, from the same keys, still change what is found?

    The statistic is the share of images that only twice the effort broke.
    """
    gained = float((twice.broken & ~first.broken).double().mean())
    before, after = float(first.margin.mean()), float(twice.margin.mean())
    moved = abs(after - before) / max(abs(before), torch.finfo(torch.float32).tiny)
    meaning = f"twice the steps break {gained:.1%} more and move the mean margin by {moved:.1%}"
    if gained > ACCURACY_MOVES or moved > MARGIN_MOVES:
        meaning = f"{meaning}: the search had not ended"
        return Symptom("G6", "warn", gained, meaning, "more steps, then more restarts")
    return Symptom("G6", "pass", gained, meaning)
