"""The audit: a verdict for every image with evidence, the bracket around robust accuracy, and the check of a run."""

from casemate.audit.audit import Progress as Progress
from casemate.audit.audit import audit as audit
from casemate.audit.cascade import Stage as Stage
from casemate.audit.check import CheckResult as CheckResult
from casemate.audit.check import check as check
from casemate.audit.diagnosis import diagnose as diagnose
from casemate.audit.presets import PRESETS as PRESETS
from casemate.audit.proofs import Proof as Proof
from casemate.audit.proofs import proofs_by_names as proofs_by_names
from casemate.audit.replay import Failure as Failure
from casemate.audit.statistics import Bracket as Bracket
from casemate.audit.statistics import clopper_pearson as clopper_pearson
from casemate.audit.store import Store as Store
from casemate.audit.summary import Summary as Summary
