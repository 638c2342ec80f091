"""Threat models: what the adversary may do to one image."""

from casemate.threat.l0 import L0 as L0
from casemate.threat.norms import L1 as L1
from casemate.threat.norms import L2 as L2
from casemate.threat.norms import NORMS as NORMS
from casemate.threat.norms import ROUNDING as ROUNDING
from casemate.threat.norms import Distances as Distances
from casemate.threat.norms import Gradients as Gradients
from casemate.threat.norms import Images as Images
from casemate.threat.norms import Linf as Linf
from casemate.threat.norms import Threat as Threat
from casemate.threat.norms import with_eps as with_eps
from casemate.threat.patch import Patch as Patch
from casemate.threat.written import parse as parse
from casemate.threat.written import parse_any as parse_any
