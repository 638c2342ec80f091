"""Defences before or inside a classifier, one a file: modules that declare their surrogate and their randomness."""

from casemate.defences.bit_depth import BitDepth as BitDepth
from casemate.defences.jpeg import JPEG as JPEG
