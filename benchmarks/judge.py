"""The judge of the speed run: the cascade of `casemate audit --preset standard`, in memory, the same for everyone."""

from typing import Any

from torch import nn

from casemate.audit import presets
from casemate.audit.cascade import in_turn
from casemate.audit.refusals import refuse_unfit, settle_search
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
    settle_search(engine, data)
    counts = [int(standing.sum()) for standing in in_turn(engine, data.images, data.labels, threat, stages, seed)]
    clean, attacked = counts[0], counts[-1]
    return {
        "clean_accuracy": clean / len(data),
        "attacked_accuracy": attacked / len(data),
        "interval": list(clopper_pearson(attacked, len(data))),
    }
