"""Planted faults: defences that hide a classifier's gradient and do not say so, and attacks that do no work.

An audit is only worth something if it catches what is known to be wrong. Each planted defence turns any classifier
into one that is no more robust and looks it; its modules declare no surrogate and no randomness, so that whoever is
handed the result has model(x) to go by and nothing else. The classifier it was made from is its twin, whose attacked
accuracy is also the planted one's: exactly, or as closely as `moves` and the builder say.

`trips` names the checks that a sound audit must fail it on, for a twin that an ordinary attack breaks:

- G1 one step beats many; G2 black-box beats white-box; G3 an unbounded attack leaves images standing; G4 random points
  succeed where gradients fail; G5 more distortion brings no more success; G6 more steps still bring more; G7 gradient
  absent, zero or saturated; G8 gradient differs from finite differences; G9 rough landscape; G10 undeclared randomness;
  G11 gradients computed inside the forward pass; G12 probabilities in the place of logits; G13 the attack never ran;
  G14 it broke its constraints (after Athalye et al. 2018, Carlini et al. 2019 and the warnings of AutoAttack);
- I1 unavailable gradients, I2 unstable predictions, I3 silent success, I4 incomplete optimisation, I5 transfer
  failure, I6 unconstrained failure (Pintor et al. 2022);
- BIN, the binarisation test of the attack (Zimmermann et al. 2022).
"""

from casemate.testing.planted.attacks import PLANTED_ATTACKS as PLANTED_ATTACKS
from casemate.testing.planted.attacks import Inert as Inert
from casemate.testing.planted.attacks import LastIterate as LastIterate
from casemate.testing.planted.attacks import PlantedAttack as PlantedAttack
from casemate.testing.planted.attacks import TinySteps as TinySteps
from casemate.testing.planted.defences import PLANTED_DEFENCES as PLANTED_DEFENCES
from casemate.testing.planted.defences import PlantedDefence as PlantedDefence
