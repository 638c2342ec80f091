"""The pages: a run's, and the comparison of several."""

from casemate.report.comparison import compare as compare
from casemate.report.page import write as write
