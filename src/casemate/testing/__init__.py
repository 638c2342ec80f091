"""Conformance suites, public: one call says whether an attack, certifier, defence or threat model keeps its promises.

A test of your own needs one line: `check_attack(MyAttack(n_steps=20))`. For audits there are planted faults to find.
"""

from casemate.testing.attack import check_attack as check_attack
from casemate.testing.certifier import check_certifier as check_certifier
from casemate.testing.conformance import ConformanceError as ConformanceError
from casemate.testing.defence import check_defence as check_defence
from casemate.testing.planted import PLANTED_ATTACKS as PLANTED_ATTACKS
from casemate.testing.planted import PLANTED_DEFENCES as PLANTED_DEFENCES
from casemate.testing.planted import PlantedAttack as PlantedAttack
from casemate.testing.planted import PlantedDefence as PlantedDefence
from casemate.testing.threat import check_threat as check_threat
