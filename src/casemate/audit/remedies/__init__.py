"""What an audit does about its own symptoms: a remedy a file, the ways to a gradient, and the plan that joins them."""

from casemate.audit.remedies.kept import keep as keep
from casemate.audit.remedies.kept import kept as kept
from casemate.audit.remedies.mend import Applied as Applied
from casemate.audit.remedies.mend import Mended as Mended
from casemate.audit.remedies.mend import mended as mended
from casemate.audit.remedies.plan import Plan as Plan
from casemate.audit.remedies.ways import BySource as BySource
from casemate.audit.remedies.ways import Way as Way
