"""Attacks: one a file, each a frozen dataclass of settings that is called as attack(model, x, y, threat, keys=keys)."""

from casemate.attacks.apgd import APGD as APGD
from casemate.attacks.boundary import Boundary as Boundary
from casemate.attacks.boundary import distance_path as distance_path
from casemate.attacks.cw import CarliniWagner as CarliniWagner
from casemate.attacks.ddn import DDN as DDN
from casemate.attacks.evaluate import Outcome as Outcome
from casemate.attacks.evaluate import evaluate as evaluate
from casemate.attacks.fab import FAB as FAB
from casemate.attacks.fgsm import FGSM as FGSM
from casemate.attacks.fmn import FMN as FMN
from casemate.attacks.hopskipjump import HopSkipJump as HopSkipJump
from casemate.attacks.nearest import MinimumNorm as MinimumNorm
from casemate.attacks.nearest import Nearest as Nearest
from casemate.attacks.nes import NES as NES
from casemate.attacks.pgd import PGD as PGD
from casemate.attacks.pgd import loss_path as loss_path
from casemate.attacks.pgd import maximise as maximise
from casemate.attacks.random_points import RandomPoints as RandomPoints
from casemate.attacks.spsa import SPSA as SPSA
from casemate.attacks.square import Square as Square
from casemate.attacks.standing import Attack as Attack
from casemate.attacks.transfer import Transfer as Transfer
from casemate.attacks.worst import MultiTarget as MultiTarget
from casemate.attacks.worst import Restarts as Restarts
from casemate.attacks.worst import Worst as Worst
