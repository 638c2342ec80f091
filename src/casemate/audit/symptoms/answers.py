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

N_CALLS = 5
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

    The statistic is how often it did for one batch.
    """
    with evaluating(subject.engine.model), torch.no_grad(), rng.drawing_from(subject.keys), _counting() as counted:
        subject.engine.model(subject.x.clone())
    n_gradients = counted[0]
    if n_gradients:
        return Symptom(
            "G11",
            "fail",
            n_gradients,
            f"the classifier takes {n_gradients} gradients of its own to answer: the gradient through such a loop "
            "vanishes or explodes",
            "give the loop a surrogate, such as the identity, or attack from scores",
        )
    return Symptom("G11", "pass", 0, "the classifier takes no gradients of its own")


def probabilities(subject: Subject) -> Symptom:
    """G12: are the answers probabilities? After a softmax the gradient vanishes where the classifier is sure.

    The statistic is the share of images whose answers are at least 0, at most 1 and sum to 1.
    """
    with evaluating(subject.engine.model), torch.no_grad(), rng.drawing_from(subject.keys):
        answers = subject.engine.model(subject.x.clone()).float()
    share = float(are_probabilities(answers).double().mean())
    if share == 1:
        return Symptom(
            "G12",
            "fail",
            share,
            "the answers are probabilities, whose gradient vanishes where the classifier is sure",
            "return the values before the softmax; their logarithm stands in for them",
        )
    return Symptom("G12", "pass", share, "the answers are logits")


def are_probabilities(answers: Tensor) -> Tensor:
    """Which rows of answers [N, classes] are probabilities, within 1e-5: bool [N]."""
    inside = (answers > -PROBABILITY_SLACK) & (answers < 1 + PROBABILITY_SLACK)
    return inside.all(dim=1) & ((answers.sum(dim=1) - 1).abs() < PROBABILITY_SLACK)


class Logits(nn.Module):
    """The logarithm of a classifier's probabilities: logits up to one constant an image, so with the same answer.

    Probabilities that have underflowed to 0 count as the smallest normal number.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.model(x)
        return answers.clamp(min=torch.finfo(answers.dtype).tiny).log()


def _distance(first: Tensor, second: Tensor) -> float:
    return float((F.normalize(first, dim=1) - F.normalize(second, dim=1)).norm(dim=1).max())


@contextmanager
def _counting() -> Iterator[list[int]]:
    """Counts calls of autograd in Python while open; a profile sees them however they are imported."""
    watched = {torch.autograd.grad.__code__, torch.autograd.backward.__code__}
    counted, before = [0], sys.getprofile()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code in watched:
            counted[0] += 1

    sys.setprofile(note)
    try:
        yield counted
    finally:
        sys.setprofile(before)
