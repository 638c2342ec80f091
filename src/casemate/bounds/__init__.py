"""Proofs: one interpreter over the graph of a classifier, one abstract domain a file, and certifiers made of them."""

from casemate.bounds.box import box_of as box_of
from casemate.bounds.box import reach_of as reach_of
from casemate.bounds.branching import BranchAndBound as BranchAndBound
from casemate.bounds.certificate import Certificate as Certificate
from casemate.bounds.certificate import Certifier as Certifier
from casemate.bounds.certifiers import CROWN as CROWN
from casemate.bounds.certifiers import CROWNIBP as CROWNIBP
from casemate.bounds.certifiers import IBP as IBP
from casemate.bounds.certifiers import AlphaCROWN as AlphaCROWN
from casemate.bounds.certifiers import ByZonotopes as ByZonotopes
from casemate.bounds.certifiers import FullAlphaCROWN as FullAlphaCROWN
from casemate.bounds.graph import Graph as Graph
from casemate.bounds.graph import Node as Node
from casemate.bounds.graph import Tracing as Tracing
from casemate.bounds.interpreter import Domain as Domain
from casemate.bounds.interpreter import propagate as propagate
from casemate.bounds.interval import Interval as Interval
from casemate.bounds.interval import Intervals as Intervals
from casemate.bounds.linear import LinearBounds as LinearBounds
from casemate.bounds.points import Points as Points
from casemate.bounds.radius import Bisection as Bisection
from casemate.bounds.rounding import Rounding as Rounding
from casemate.bounds.rounding import rounding_in as rounding_in
from casemate.bounds.specification import least_margins as least_margins
from casemate.bounds.zonotope import Zonotope as Zonotope
from casemate.bounds.zonotope import Zonotopes as Zonotopes
