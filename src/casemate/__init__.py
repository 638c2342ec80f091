"""Casemate: train, defend, attack and certify image classifiers, with evidence for every image."""

from casemate._version import __version__ as __version__
from casemate.attacks import FGSM as FGSM
from casemate.attacks import PGD as PGD
from casemate.attacks import MultiTarget as MultiTarget
from casemate.attacks import Restarts as Restarts
from casemate.attacks import Transfer as Transfer
from casemate.attacks import Worst as Worst
from casemate.classifier import Normalise as Normalise
from casemate.errors import CasemateError as CasemateError
from casemate.rng import image_keys as image_keys
from casemate.threat import L0 as L0
from casemate.threat import L1 as L1
from casemate.threat import L2 as L2
from casemate.threat import Linf as Linf
from casemate.threat import Patch as Patch

__all__ = [
    "FGSM",
    "L0",
    "L1",
    "L2",
    "PGD",
    "CasemateError",
    "Linf",
    "MultiTarget",
    "Normalise",
    "Patch",
    "Restarts",
    "Transfer",
    "Worst",
    "__version__",
    "image_keys",
]
