"""What a page is made of: the files of a finished run, and the images that it shows."""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from casemate import data, files
from casemate.audit.store import Store
from casemate.audit.verdict import decode
from casemate.errors import CasemateError
from casemate.report.pictures import Picture


@dataclass(frozen=True, eq=False)
class Record:
    """A finished run. `curves` is None where the run drew none; `training` is empty where the model had no log."""

    store: Store
    manifest: dict[str, Any]
    summary: dict[str, Any]
    verdicts: pl.DataFrame
    curves: dict[str, Any] | None
    training: list[dict[str, Any]]


def read(run: Path) -> Record:
    """The run in the folder `run`; raises `CasemateError` where it is not finished or a file of it is damaged."""
    store = Store(run)
    manifest = store.manifest()
    if not (run / "summary.json").exists():
        raise CasemateError(f"the audit in {run} is not finished: resume it (--resume), then make the report")
    curves = run / "curves.json"
    return Record(
        store,
        manifest,
        files.read_json(run / "summary.json", "a report"),
        store.verdicts(),
        files.read_json(curves, "a report") if curves.exists() else None,
        _training(run / "training.jsonl"),
    )


@contextlib.contextmanager
def or_damaged(what: str) -> Iterator[None]:
    """Turn what goes wrong inside, for want of an entry or a number in a file, into a sentence about `what`."""
    try:
        yield
    except CasemateError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, jinja2.UndefinedError) as error:
        raise CasemateError(f"{what} is damaged ({type(error).__name__}: {error}): make it again") from error


def adversarial_images(record: Record, indices: Collection[int]) -> dict[int, Picture]:
    """The stored adversarial images of these broken images; only the blocks that hold one are read."""
    images = {}
    shape = tuple(record.manifest["data"]["shape"])
    for part in record.store.parts():
        wanted = set(indices) & set(record.store.verdicts_of(part)["index"])
        if not wanted:
            continue
        rows = record.store.evidence_of(part).filter(pl.col("index").is_in(sorted(wanted)))
        for index, stored_shape, content in rows.iter_rows():
            if tuple(stored_shape) != shape:
                raise CasemateError(f"the adversarial image {index} is {stored_shape}, not {list(shape)}: run a check")
            images[index] = decode(content, shape).numpy()
    return images


def clean_images(record: Record, indices: Collection[int]) -> tuple[Mapping[int, Picture], str]:
    """These images of the data set, or none and a sentence that says why; nothing is downloaded for a page."""
    name, split, n = (record.manifest["data"][key] for key in ("name", "split", "n"))
    if any(known.name == name and known.where is None for known in data.describe()):
        return {}, f"{name} is not on this machine"
    try:
        dataset = data.load(name, split, limit=n)
    except CasemateError as error:
        return {}, str(error)
    if dataset.fingerprint != record.manifest["data"]["fingerprint"]:
        return {}, f"{name}[{split}] on this machine is not the data that was audited"
    return {index: dataset.images[index].numpy() for index in indices}, ""


def _training(log: Path) -> list[dict[str, Any]]:
    lines = []
    for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break  # the line that was being written when the training was killed
    return lines
