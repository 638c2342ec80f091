"""The suite for certifiers passes honest ones and catches every planted fault by name."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from casemate.bounds import CROWN, CROWNIBP, IBP, AlphaCROWN, ByZonotopes, Certificate, Certifier, FullAlphaCROWN
from casemate.losses import margin
from casemate.testing import ConformanceError, check_certifier
from casemate.testing.models import Noisy
from casemate.threat import Linf


@pytest.mark.parametrize(
    "certifier",
    [
        IBP(),
        CROWNIBP(),
        CROWN(),
        AlphaCROWN(n_steps=2),
        FullAlphaCROWN(n_steps=2),
        ByZonotopes(),
        ByZonotopes("switch", hybrid=True),
    ],
    ids=str,
)
def test_honest_certifiers_conform(certifier: Certifier) -> None:
    check_certifier(certifier)


@dataclass(frozen=True)
class Faulty:
    """Intervals with a fault."""

    fault: str

    def certify(self, model, x, y, threat, *, keys=None):  # type: ignore[no-untyped-def]
        honest = IBP()
        match self.fault:
            case "always":
                sure = torch.full((len(x),), 1e-9, dtype=torch.float64)
                return Certificate(sure > 0, sure, threat.eps * torch.ones_like(sure))
            case "never":
                none = torch.zeros(len(x), dtype=torch.float64)
                return Certificate(none > 0, none, none)
            case "half eps":
                found = honest.certify(model, x, y, Linf(threat.eps / 2))
                return replace(found, radius=threat.eps * found.holds.double())
            case "clean":
                clean = -margin(model(x), y).double()
                return Certificate(clean > 0, clean, threat.eps * (clean > 0).double())
            case "its own label":
                return honest.certify(model, x, model(x).argmax(dim=1), threat)
            case "generous margin":
                found = honest.certify(model, x, y, threat)
                return replace(found, margin=found.margin.where(~found.holds, found.margin + 5))
            case "no radius":
                found = honest.certify(model, x, y, threat)
                return replace(found, radius=torch.zeros_like(found.radius))
            case "by the batch":
                found = honest.certify(model, x, y, threat)
                return replace(found, margin=found.margin - 0.01 * len(x))
            case "float32":
                found = honest.certify(model, x, y, threat)
                return replace(found, margin=found.margin.float())
            case "changes the model":
                found = honest.certify(model, x, y, threat)
                model.train()
                return found
            case "blind to draws":
                drawn = isinstance(model, nn.Sequential) and isinstance(model[0], Noisy)
                return honest.certify(model[1] if drawn else model, x, y, threat)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("always", "certified images that the classifier gets wrong"),
        ("never", "proves nothing, not even that eps of 0.00001 changes nothing"),
        ("half eps", "certified images that have a misclassified point within|proved a larger margin than a point"),
        ("clean", "certified images that have a misclassified point within|proved a larger margin"),
        ("its own label", "certified images that the classifier gets wrong"),
        ("generous margin", "proved a larger margin than a point within"),
        ("no radius", "must give a radius of at least eps where its certificate holds"),
        ("by the batch", "proved something else of the same images in another batch"),
        ("float32", r"must return margin as float64 \[20\]"),
        ("changes the model", "changed the training mode of the model"),
        ("blind to draws", "was given a classifier that draws at random and went on"),
    ],
)
def test_faults_are_named(fault: str, sentence: str) -> None:
    with pytest.raises(ConformanceError, match=f"Faulty.*({sentence})"):
        check_certifier(Faulty(fault))
