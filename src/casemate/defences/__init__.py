"""Defences before or inside a classifier, one a file: modules that declare their surrogate and their randomness."""

from casemate.defences.activation_pruning import ActivationPruning as ActivationPruning
from casemate.defences.activation_pruning import with_activation_pruning as with_activation_pruning
from casemate.defences.bit_depth import BitDepth as BitDepth
from casemate.defences.crop_rescale import CropEnsemble as CropEnsemble
from casemate.defences.crop_rescale import CropRescale as CropRescale
from casemate.defences.defense_gan import DefenseGAN as DefenseGAN
from casemate.defences.generator import Generator as Generator
from casemate.defences.generator import fit_generator as fit_generator
from casemate.defences.jpeg import JPEG as JPEG
from casemate.defences.k_winners import KWinners as KWinners
from casemate.defences.k_winners import with_k_winners as with_k_winners
from casemate.defences.learned import LearnedSurrogate as LearnedSurrogate
from casemate.defences.learned import learned_surrogate as learned_surrogate
from casemate.defences.lid import LID as LID
from casemate.defences.lid import local_dimension as local_dimension
from casemate.defences.pixel_defend import PixelDefend as PixelDefend
from casemate.defences.pixel_model import PixelModel as PixelModel
from casemate.defences.pixel_model import fit_pixel_model as fit_pixel_model
from casemate.defences.quilting import Quilting as Quilting
from casemate.defences.quilting import patch_bank as patch_bank
from casemate.defences.resize_pad import ResizePad as ResizePad
from casemate.defences.thermometer import Thermometer as Thermometer
from casemate.defences.total_variation import TotalVariation as TotalVariation
