"""The judge of the speed run: the cascade of `casemate audit --preset standard`, in memory, the same for everyone."""

from typing import Any

import torch
from torch import nn

from casemate import rng
from casemate.audit import presets
from casemate.audit.cascade import attempt
from casemate.audit.refusals import refuse_unfit, settle_precision
from casemate.audit.statistics import clopper_pearson
from casemate.data import Dataset
from casemate.gradients import Engine
from casemate.threat import Threat


def judge(model: nn.Module, data: Dataset, threat: Threat, *, seed: int = 0) -> dict[str, Any]:
    """Clean and attacked accuracy of `model` on all of `data`, the latter with its exact 95% interval.

    These are the accuracies that `audit` reports for the same seed. It also tries every attack on the images that an
    earlier one broke, to tell which attack breaks what; that is left out here. Raises `CasemateError` for a model that
    cannot be audited, such as one with weights that are not finite.
    """
    engine = Engine(model)
    stages = presets.by_name("standard")(threat, refuse_unfit(engine, data))
    settle_precision(engine, data)
    index = torch.arange(len(data))
    keys = rng.image_keys(seed, index)
    standing = engine.logits(data.images, keys=keys).argmax(dim=1) == data.labels
    clean = int(standing.sum())
    for stage in stages:
        at = standing.nonzero().squeeze(1)
        if len(at):
            found = attempt(engine, stage, data.images[at], data.labels[at], index[at], threat, keys[at])
            standing[at] = ~found.broke
    attacked = int(standing.sum())
    return {
        "clean_accuracy": clean / len(data),
        "attacked_accuracy": attacked / len(data),
        "interval": list(clopper_pearson(attacked, len(data))),
    }
