"""Several runs on one page: their brackets side by side, and a sentence where they should not be compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from casemate import files
from casemate.errors import CasemateError
from casemate.report import accuracy, words
from casemate.report.bracket import Bracket, bracket
from casemate.report.page import render
from casemate.report.record import Record, or_damaged, read


@dataclass(frozen=True, eq=False)
class Compared:
    """A run and the number it goes by on the page."""

    number: int
    record: Record
    bracket: Bracket

    @property
    def summary(self) -> dict[str, Any]:
        return self.record.summary


def compare(runs: Sequence[Path], out: Path) -> Path:
    """Write the page `out` that compares finished runs, and return its path.

    Self-contained like a run's page. Raises `CasemateError` where there is no run, or one is not finished or damaged.
    """
    if not runs:
        raise CasemateError("nothing to compare: name at least one run folder")
    compared = [_compared(number, run) for number, run in enumerate(runs, 1)]
    summaries = [run.summary for run in compared]
    with or_damaged("one of the runs"):
        page = render(
            "compare.html",
            runs=compared,
            shared=_shared(summaries),
            differences=differences(compared),
            budgets_differ=len({str(run.record.manifest["attacks"]) for run in compared}) > 1,
            attacks=_attacks(summaries),
            **_curves(compared),
        )
    files.write_bytes(out, page)
    return out


@dataclass(frozen=True)
class Difference:
    """What differs between the runs, and how."""

    what: str
    values: str


def differences(runs: Sequence[Compared]) -> list[Difference]:
    """What makes the accuracies of the runs incomparable."""
    named = (("data", "the data"), ("threat", "the threat models"), ("n", "the numbers of images"))
    found = [Difference(what, _by_value(runs, key)) for key, what in named if len({r.summary[key] for r in runs}) > 1]
    fingerprints = {run.record.manifest["data"]["fingerprint"] for run in runs}
    # Another split or another n has another fingerprint, which is then said already.
    if len(fingerprints) > 1 and not {"the data", "the numbers of images"} & {difference.what for difference in found}:
        found.append(Difference("the images", "the data set goes by the same name, but its fingerprint is another"))
    return found


def _compared(number: int, run: Path) -> Compared:
    record = read(run)
    with or_damaged(f"the run in {run}"):
        return Compared(number, record, bracket(record.summary))


def _by_value(runs: Sequence[Compared], key: str) -> str:
    """`linf:0.3 in runs 1 and 2; linf:0.1 in run 3`."""
    parts = []
    for value in dict.fromkeys(run.summary[key] for run in runs):
        numbers = [str(run.number) for run in runs if run.summary[key] == value]
        named = ("runs " if len(numbers) > 1 else "run ") + words.listed(numbers)
        parts.append(f"{words.images(value) if key == 'n' else value} in {named}")
    return "; ".join(parts)


def _shared(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """The facts that all runs have in common."""
    facts = [[s["data"], s["threat"], words.images(s["n"])] for s in summaries]
    return [values[0] for values in zip(*facts, strict=True) if len(set(values)) == 1]


def _curves(runs: Sequence[Compared]) -> dict[str, Any]:
    """The overlaid curves of the runs in the first run's norm, and the numbers of those left out."""
    threat = runs[0].summary["threat"]
    norm = threat.partition(":")[0]
    curves = [
        (run.number, curve)
        for run in runs
        if run.summary["threat"].partition(":")[0] == norm and (curve := accuracy.curve(run.record.curves))
    ]
    mark = len({run.summary["threat"] for run in runs}) == 1
    figure: Markup | None = accuracy.figure_of_many(curves, threat, mark=mark) if curves else None
    drawn = {number for number, _ in curves}
    return {"curves_figure": figure, "not_drawn": [run.number for run in runs if run.number not in drawn], "norm": norm}


def _attacks(summaries: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Each attack that any run had, with what it did in every run; None where the run did without it."""
    by_name = [{attack["name"]: attack for attack in summary["attacks"]} for summary in summaries]
    names = dict.fromkeys(name for attacks in by_name for name in attacks)
    return [(name, [attacks.get(name) for attacks in by_name]) for name in names]
