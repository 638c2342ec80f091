"""A symptom: the outcome of one check of an evaluation."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Symptom:
    """What one check found.

    `id` is that of Athalye et al. (2018) and its successors, G1 to G14, I1 to I6 or BIN. `statistic` is the number the
    status rests on; `meaning` says in one sentence what it is and what follows from it; `remedy` what to do about it,
    empty where nothing is to be done. A check that cannot be made here is skipped, and `meaning` says why.
    """

    id: str
    status: Status
    statistic: float
    meaning: str
    remedy: str = ""
