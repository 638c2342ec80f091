"""The log of a training run, `log.jsonl`: one JSON object a line, the lines of each step once."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from casemate import files
from casemate.errors import CasemateError

LOG = "log.jsonl"

# Told each line of the log once it is written, and the number of optimiser steps in all.
Observer = Callable[[Mapping[str, Any], int], None]


class Log:
    """Lines are appended as they come. `kind` is "train" (step, epoch, seconds, loss, lr) or "check" (step, epoch,
    seconds, the accuracies in [0, 1] on the held-out images, and the alarm).
    """

    def __init__(self, folder: Path, total: int, observe: Observer | None) -> None:
        self.path, self.total, self.observe = folder / LOG, total, observe

    def go_on_from(self, step: int) -> None:
        """Keep the lines up to `step`, where the run goes on; it will write the later ones again."""
        rows = []
        if self.path.exists():
            for line in self.path.read_text(errors="replace").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    break  # the line that was being written when the run was killed
                if row["step"] <= step:
                    rows.append(line + "\n")
        files.write_bytes(self.path, "".join(rows).encode())

    def write(self, row: Mapping[str, Any]) -> None:
        """Raises `CasemateError` where the disk is full."""
        try:
            with self.path.open("a") as log:
                log.write(json.dumps(row) + "\n")
        except OSError as error:
            raise CasemateError(
                f"cannot write {self.path}: {error.strerror or error}; free some space and go on with --resume"
            ) from error
        if self.observe is not None:
            self.observe(row, self.total)
