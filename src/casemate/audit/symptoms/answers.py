"""Symptoms in the answers of the classifier alone, before any attack: G10, G11 and G12."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casemate import rng
from casemate.audit.symptoms.subject import Subject
from casemate.audit.symptoms.symptom import Symptom
from casemate.gradients import evaluating
from casemate.threat import Images

N_CALLS = 5
PROBABILITIES = Symptom(
    "G12",
    "fail",
    1.0,
    "the answers are probabilities, whose gradient vanishes where the classifier is sure",
    "return the values before the softmax; their logarithm stands in for them",
)
# AutoAttack's own bounds for answers that differ, and for rows that are probabilities (Croce & Hein 2020).
DIFFERENT = 1e-4
PROBABILITY_SLACK = 1e-5


def randomness(subject: Subject) -> Symptom:
    """G10: does the classifier answer the same image differently when it is called again?

    `N_CALLS` answers with the same keys: what differs then is random and does not say so, so that attacks do not
    average over it. The statistic is the largest distance of two answers divided by their norms. A classifier that
    differs between keys alone has declared its random layers, and attacks average over those.
    """
    engine, keys = subject.engine, subject.keys
    answers = [engine.logits(subject.x, keys=keys) for _ in range(N_CALLS)]
    undeclared = max(_distance(answers[0], other) for other in answers[1:])
    right = {int((answer.argmax(dim=1) == subject.y).sum()) for answer in answers}
    if undeclared > DIFFERENT or len(right) > 1:
        return Symptom(
            "G10",
            "fail",
            undeclared,
            f"{N_CALLS} answers to the same images differ by up to {undeclared:.2g} of their norm: the classifier is "
            "random and does not declare it, so that a gradient is that of one draw",
            "declare the random layer (stochastic = True, draws from layer_keys), and average the gradient over draws",
        )
    declared = max(_distance(answers[0], engine.logits(subject.x, keys=rng.fold(keys, draw))) for draw in range(2))
    if declared > DIFFERENT:
        return Symptom("G10", "pass", declared, f"random as declared; a gradient is the mean of {engine.draws} draws")
    return Symptom("G10", "pass", undeclared, f"{N_CALLS} answers to the same images are the same")


def inner_loop(subject: Subject) -> Symptom:
    """G11: does the classifier take gradients of its own while it answers, as a purifier or an optimiser does?

    The statistic is how often it did for one batch, outside of the layers that declare a surrogate. It warns where
    attacks follow a stand-in, which does not lead through the loop.
    """
    engine = subject.engine
    with evaluating(engine.model), torch.no_grad(), rng.drawing_from(subject.keys), _counting(engine.model) as counted:
        engine.model(subject.x.clone())
    n_gradients = counted[0]
    if not n_gradients:
        return Symptom("G11", "pass", 0, "the classifier takes no gradients of its own that attacks would go through")
    meaning = f"the classifier takes {n_gradients} gradients of its own to answer"
    remedy = "give the loop a surrogate, such as the identity, or attack from scores"
    if engine.stand_in is not None:
        return Symptom("G11", "warn", n_gradients, f"{meaning}; attacks follow a stand-in for it", remedy)
    return Symptom(
        "G11", "fail", n_gradients, f"{meaning}: the gradient through such a loop vanishes or explodes", remedy
    )


def probabilities(subject: Subject) -> Symptom:
    """G12: are the answers probabilities? After a softmax the gradient vanishes where the classifier is sure.

    The statistic is the share of images whose answers are at least 0, at most 1 and sum to 1.
    """
    share = _share_of_probabilities(subject.engine.model, subject.x, subject.keys)
    if share == 1:
        return PROBABILITIES
    return Symptom("G12", "pass", share, "the answers are logits")


def answers_probabilities(model: nn.Module, x: Images) -> bool:
    """Whether the answers to images x [n, C, H, W] are all probabilities; False where there is no answer to look at."""
    try:
        return _share_of_probabilities(model, x, rng.image_keys(0, torch.arange(len(x), device=x.device))) == 1
    except Exception:
        # What is wrong with this classifier is said where it is refused.
        return False


def _share_of_probabilities(model: nn.Module, x: Images, keys: rng.Keys) -> float:
    with evaluating(model), torch.no_grad(), rng.drawing_from(keys):
        return float(are_probabilities(model(x.clone()).float()).double().mean())


def are_probabilities(answers: Tensor) -> Tensor:
    """Which rows of answers [N, classes] are probabilities, within 1e-5: bool [N]."""
    inside = (answers > -PROBABILITY_SLACK) & (answers < 1 + PROBABILITY_SLACK)
    return inside.all(dim=1) & ((answers.sum(dim=1) - 1).abs() < PROBABILITY_SLACK)


def _distance(first: Tensor, second: Tensor) -> float:
    return float((F.normalize(first, dim=1) - F.normalize(second, dim=1)).norm(dim=1).max())


@contextmanager
def _counting(model: nn.Module) -> Iterator[list[int]]:
    """Counts calls of autograd in Python while open; a profile sees them however they are imported.

    Those inside a layer that declares a surrogate are not counted: attacks do not go through it.
    """
    watched = {torch.autograd.grad.__code__, torch.autograd.backward.__code__}
    counted, covered, before = [0], [0], sys.getprofile()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code in watched and not covered[0]:
            counted[0] += 1

    def enter(*arguments: Any) -> None:
        covered[0] += 1

    def leave(*arguments: Any) -> None:
        covered[0] -= 1

    declared = [module for module in model.modules() if getattr(module, "surrogate", None) is not None]
    handles = [module.register_forward_pre_hook(enter) for module in declared]
    handles += [module.register_forward_hook(leave) for module in declared]
    sys.setprofile(note)
    try:
        yield counted
    finally:
        sys.setprofile(before)
        for handle in handles:
            handle.remove()
