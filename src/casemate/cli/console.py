"""What the command line draws: progress on standard error, results on standard output."""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from casemate import audit


def say(text: str) -> None:
    """A line for a person, on standard error, so that standard output holds results alone."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value) + "\n")


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A table on standard output; columns of numbers are set flush right."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    body = [list(row) for row in rows]
    for place, column in enumerate(columns):
        numeric = bool(body) and all(isinstance(row[place], (int, float)) for row in body)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        table.add_row(*(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(highlight=False).print(table)


def print_summary(summary: audit.Summary) -> None:
    """The bracket, and what each attack and each certifier did."""
    bracket = summary.bracket
    low, high = bracket.interval
    rows = [(attack.name, attack.tried, attack.broke, attack.alone, attack.seconds) for attack in summary.attacks]
    print_table(
        f"{summary.model} on {summary.data}, {summary.threat}, n = {bracket.n}",
        ("attack", "tried", "broke", "alone", "seconds"),
        rows,
    )
    if summary.certifiers:
        print_table(
            "",
            ("certifier", "tried", "proved", "seconds"),
            [(proof.name, proof.tried, proof.proved, proof.seconds) for proof in summary.certifiers],
        )
    lines = (
        f"clean accuracy      {bracket.clean_accuracy:7.2%}",
        f"attacked accuracy   {bracket.attacked_accuracy:7.2%}  (upper end)",
        f"certified accuracy  {bracket.certified_accuracy:7.2%}  (lower end)",
        f"robust accuracy is in [{low:.2%}, {high:.2%}] at 95% confidence",
        f"no failure found with this budget for {bracket.certified + bracket.unresolved} of {bracket.n} images",
    )
    Console(highlight=False).print("\n".join((*lines, *_unusable(summary), *_diagnosis(summary))), markup=False)


def _unusable(summary: audit.Summary) -> list[str]:
    """Why a certifier was not tried."""
    return [f"{proof.name} was not tried: {proof.unusable}" for proof in summary.certifiers if proof.unusable]


def _diagnosis(summary: audit.Summary) -> list[str]:
    """The remedies that were applied, the verdict on the evaluation after them, and every check that still failed."""
    if summary.evaluation is None:
        return []
    applied = [
        f"remedy for {', '.join(symptom['id'] for symptom in remedy['symptoms']) or 'a declared surrogate'}: "
        f"{remedy['did']}"
        for remedy in summary.remedies
    ]
    failed = [symptom for symptom in summary.symptoms if symptom["status"] == "fail"]
    lines = [f"  {symptom['id']}: {symptom['meaning']}; remedy: {symptom['remedy']}" for symptom in failed]
    return [*applied, f"the evaluation itself: {summary.evaluation}", *lines]


class Bar:
    """A progress bar on standard error, silent where that is not a terminal. Also an observer of training."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._note = ""

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, done: int, total: int, note: str) -> None:
        """`done` of `total`, and what is going on."""
        if self._progress is None or self._task is None:
            console = Console(stderr=True)
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                disable=not console.is_terminal,
            )
            self._progress.start()
            self._task = self._progress.add_task(self.label, total=total, note=note)
        self._progress.update(self._task, completed=done, total=total, note=note)

    def training(self, row: Mapping[str, Any], total: int) -> None:
        """A line of the training log: the note keeps the last check beside the running loss."""
        if row["kind"] == "check":
            self._note = f"clean {row['clean_accuracy']:.1%}, attacked {row['attacked_accuracy']:.1%}"
            if row["catastrophic_overfitting"]:
                self._note += "  CATASTROPHIC OVERFITTING: attacked accuracy collapsed, one-step accuracy did not"
            self.show(row["step"], total, self._note)
        else:
            self.show(row["step"], total, f"loss {row['loss']:.3f}, {self._note or 'not checked yet'}")

    def auditing(self, progress: audit.Progress) -> None:
        """The state of an audit."""
        counts = ", ".join(f"{count} {verdict}" for verdict, count in progress.verdicts.items() if count)
        self.show(progress.done, progress.n, f"{progress.doing} on {progress.active}   {counts}")
