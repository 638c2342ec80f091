"""Defences: layers and wrappers, one a file, that say what an attack must know: surrogate and randomness."""

from casemate.defences.activation_pruning import ActivationPruning as ActivationPruning
from casemate.defences.activation_pruning import with_activation_pruning as with_activation_pruning
from casemate.defences.k_winners import KWinners as KWinners
from casemate.defences.k_winners import with_k_winners as with_k_winners
from casemate.defences.thermometer import Thermometer as Thermometer
