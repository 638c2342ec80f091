"""DiffAI (Mirman et al. 2018, 2019): goals of training over abstract domains, and the language they are written in."""

from casemate.training.diffai.language import read_goal as read_goal
from casemate.training.diffai.objective import DiffAI as DiffAI
