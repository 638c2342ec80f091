"""Defences: layers and wrappers, one a file, that say what an attack must know: surrogate and randomness."""

from casemate.defences.thermometer import Thermometer as Thermometer
