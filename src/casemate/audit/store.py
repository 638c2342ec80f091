"""The run folder: the manifest, and for each block of images its evidence, timings and verdicts.

A block exists if and only if its verdicts file does, which is written last; every file is written under a temporary
name and renamed. So a run that is killed at any moment has whole blocks only, and a resumed one does the others.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from casemate import files
from casemate.audit.manifest import FORMAT, now, refuse_difference
from casemate.audit.verdict import EVIDENCE_SCHEMA, VERDICT_SCHEMA, Block, Seconds
from casemate.errors import CasemateError, first_line


@dataclass(frozen=True)
class Store:
    """The files of one run, under `run`; a part is the name shared by the three files of a block."""

    run: Path

    def manifest(self) -> dict[str, Any]:
        """The content of `run.json`; raises `CasemateError` where it is absent or not a run's."""
        manifest = files.read_json(self.run / "run.json", f"the run {self.run}")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise CasemateError(f"{self.run / 'run.json'} was not written by this version: make the run again")
        return manifest

    def diagnosis(self) -> dict[str, Any]:
        """What `casemate.audit.remedies.mended` found; no verdict and no symptoms where it was not asked."""
        path = self.run / "diagnosis.json"
        if not path.exists():
            return {"evaluation": None, "symptoms": [], "remedies": [], "ways": []}
        found = files.read_json(path, f"the run {self.run}")
        if not isinstance(found, dict) or not {"evaluation", "symptoms", "remedies", "ways"} <= found.keys():
            raise CasemateError(f"{path} is damaged: make the run again")
        return found

    def earlier(self, *, resume: bool) -> dict[str, Any] | None:
        """The manifest of the run in this folder, None where there is none; an existing one must be asked for."""
        if (self.run / "run.json").exists():
            if not resume:
                raise CasemateError(f"{self.run} holds a run already: resume it (--resume) or choose another folder")
            return self.manifest()
        if self.parts():
            raise CasemateError(f"{self.run} holds verdicts but no run.json: choose another folder")
        return None

    def begin(self, manifest: Mapping[str, Any], *, resume: bool) -> None:
        """Write the manifest of a new run, or check that a resumed one is the same and note its command line."""
        earlier = self.earlier(resume=resume)
        self._remove_leftovers()
        if earlier is None:
            files.write_json(self.run / "run.json", {**manifest, "command_lines": [manifest["command"]]})
            return
        refuse_difference(earlier, manifest, self.run)
        command_lines = [*earlier.get("command_lines", []), manifest["command"]]
        files.write_json(self.run / "run.json", {**earlier, "command_lines": command_lines})

    def finish(self) -> None:
        """Note in the manifest when the run was complete."""
        files.write_json(self.run / "run.json", {**self.manifest(), "finished": now()})

    def write(self, block: Block) -> None:
        """Store a block: what it rests on first, its verdicts last."""
        part = f"part-{int(block.index[0]):08d}"
        files.write_bytes(self.run / "evidence" / f"{part}.parquet", _parquet(block.evidence()))
        files.write_json(self.run / "timings" / f"{part}.json", asdict(block.seconds))
        files.write_bytes(self.run / "verdicts" / f"{part}.parquet", _parquet(block.verdicts()))

    def parts(self) -> list[str]:
        """The names of the blocks that are done, in order."""
        return sorted(path.stem for path in (self.run / "verdicts").glob("part-*.parquet"))

    def verdicts_of(self, part: str) -> pl.DataFrame:
        """The verdicts of one block; raises `CasemateError` naming the file where it is damaged."""
        return _read(self.run / "verdicts" / f"{part}.parquet", VERDICT_SCHEMA)

    def evidence_of(self, part: str) -> pl.DataFrame:
        """The evidence of one block; raises `CasemateError` naming the file where it is absent or damaged."""
        return _read(self.run / "evidence" / f"{part}.parquet", EVIDENCE_SCHEMA)

    def verdicts(self) -> pl.DataFrame:
        """One row for each image that has a verdict, with `VERDICT_SCHEMA`, by index."""
        return _joined([self.verdicts_of(part) for part in self.parts()], VERDICT_SCHEMA)

    def evidence(self) -> pl.DataFrame:
        """One row for each broken image, with `EVIDENCE_SCHEMA`, by index; `verdict.decode` makes images of them."""
        return _joined([self.evidence_of(part) for part in self.parts()], EVIDENCE_SCHEMA)

    def seconds(self) -> Seconds:
        """The time all blocks took; a block whose timings are lost or damaged counts as none."""
        clean, attribution = 0.0, 0.0
        attacks, proofs = Counter[str](), Counter[str]()
        for timing in self._timings():
            clean, attribution = clean + timing.clean, attribution + timing.attribution
            # A Counter adds numbers of any kind, by name.
            attacks.update(timing.attacks)
            proofs.update(timing.proofs)
        return Seconds(clean, dict(attacks), attribution, dict(proofs))

    def missing(self, n: int) -> Int64[Tensor, "some"]:
        """The indices among 0 to n - 1 that have no verdict yet, in order."""
        done = set(self.verdicts()["index"])
        return torch.tensor([index for index in range(n) if index not in done], dtype=torch.int64)

    def _timings(self) -> Iterator[Seconds]:
        for part in self.parts():
            with contextlib.suppress(CasemateError, TypeError):
                yield Seconds(**files.read_json(self.run / "timings" / f"{part}.json", "the time an audit took"))

    def _remove_leftovers(self) -> None:
        """Delete the temporary files of a process that was killed while it wrote."""
        for folder in (self.run, *(self.run / name for name in ("evidence", "timings", "verdicts"))):
            for path in folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)


def _parquet(frame: pl.DataFrame) -> bytes:
    # Made in memory, so that what can fail on the disk is one write of bytes with a reason of the system.
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _read(path: Path, schema: pl.Schema) -> pl.DataFrame:
    again = f"delete {path.parent.parent / 'verdicts' / path.name} and resume the audit"
    try:
        frame = pl.read_parquet(io.BytesIO(path.read_bytes()))
    except FileNotFoundError:
        raise CasemateError(f"{path} is absent: {again}") from None
    except OSError as error:
        raise CasemateError(f"{path} cannot be read: {error.strerror or error}") from None
    # Damaged bytes can make polars panic, which is no `Exception`.
    except (Exception, pl.exceptions.PanicException) as error:
        reason = first_line(error, type(error).__name__)
        raise CasemateError(f"{path} is damaged ({reason}): {again}") from None
    if frame.schema != schema:
        raise CasemateError(f"{path} does not have the columns of its kind: {again}")
    return frame


def _joined(frames: list[pl.DataFrame], schema: pl.Schema) -> pl.DataFrame:
    return pl.concat(frames).sort("index") if frames else pl.DataFrame(schema=schema)
