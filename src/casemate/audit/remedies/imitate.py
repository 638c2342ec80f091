"""Learned stand-ins: small networks that learn from a classifier's answers, or from those of its layers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from casemate import checkpoint, rng
from casemate.audit.remedies.calls import calls_of
from casemate.audit.remedies.radius import linf_radius
from casemate.audit.remedies.ways import BySource, Learned
from casemate.defences.learned import BATCH_SIZE, Imitation, fit, near
from casemate.errors import CasemateError
from casemate.gradients import Engine, evaluating
from casemate.threat import Images, Threat

NAME = "a small network taught by its answers"
# Images of a step. A map has hundreds of places to learn from, an image one answer.
N_FOR_MAPS = 16


def imitated(engine: Engine, x: Images, threat: Threat, seed: int) -> tuple[BySource, ...]:
    """A small network that has learnt the classifier's logits at and near the images x [n, C, H, W], to transfer from.

    The substitute of Papernot et al. 2017 (arXiv:1602.02697), which asks for scores and mixes the images it has. None
    where images are so large that it would be no small network.
    """
    keys = _keys(x, seed)
    radius = linf_radius(threat, x)
    try:
        student = Imitation(x.shape[1:], engine.logits(x[:1], keys=keys[:1]).shape[1:], seed).to(x)
    except CasemateError:
        return ()

    def answered(keys: rng.Keys) -> tuple[list[Tensor], list[Tensor]]:
        asked = near(x, radius, keys)
        return [asked], [engine.logits(asked, keys=keys)]

    fit([student], answered, keys)
    return (BySource(NAME, checkpoint.fingerprint(student), student),)


def learned(model: nn.Module, names: Sequence[str], x: Images, threat: Threat, seed: int) -> tuple[Learned, ...]:
    """The submodules `names` of `model` with networks that have learnt their answers, all at once; none where one of
    them takes or gives what no small network does."""
    keys = _keys(x, seed)[:N_FOR_MAPS]
    radius = linf_radius(threat, x)

    def answered(keys: rng.Keys) -> tuple[list[Tensor], list[Tensor]]:
        with rng.drawing_from(keys):
            _, calls = calls_of(model, near(x, radius, keys))
        return [calls[name].values for name in names], [calls[name].answer for name in names]

    with evaluating(model), torch.no_grad():
        try:
            students = [
                Imitation(asked.shape[1:], answer.shape[1:], seed).to(x)
                for asked, answer in zip(*answered(keys), strict=True)
            ]
        except CasemateError:
            return ()
        fit(students, answered, keys)
    taught = nn.ModuleList(students)
    return (Learned(tuple(names), checkpoint.fingerprint(taught), taught),)


def _keys(x: Images, seed: int) -> rng.Keys:
    return rng.fold(rng.image_keys(seed, torch.arange(BATCH_SIZE, device=x.device)), "imitation")
