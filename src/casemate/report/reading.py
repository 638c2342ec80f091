"""PROVISIONAL: reads a run folder; replaced by the audit room's store."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from casemate import data, files
from casemate.errors import CasemateError
from casemate.report.pictures import Picture


@dataclass(frozen=True, eq=False)
class RunRecord:
    folder: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    verdicts: pl.DataFrame
    curves: dict[str, Any] | None
    training: list[dict[str, Any]]


@dataclass(frozen=True)
class Originals:
    images: Mapping[int, Picture]
    missing: str | None


def read(run: Path) -> RunRecord:
    manifest = files.read_json(run / "run.json", "a report")
    summary = files.read_json(run / "summary.json", "a report")
    verdicts = pl.read_parquet(run / "verdicts" / "part-*.parquet").sort("index")
    curves = files.read_json(run / "curves.json", "a report") if (run / "curves.json").exists() else None
    log = run / "training.jsonl"
    training = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return RunRecord(run, manifest, summary, verdicts, curves, training)


def evidence(record: RunRecord, indices: Sequence[int]) -> dict[int, Picture]:
    if not indices:
        return {}
    rows = pl.scan_parquet(record.folder / "evidence" / "part-*.parquet").filter(pl.col("index").is_in(list(indices))).collect()
    return {
        row["index"]: np.frombuffer(row["image"], dtype="<f4").reshape(row["shape"]) for row in rows.iter_rows(named=True)
    }


def originals(record: RunRecord, indices: Sequence[int]) -> Originals:
    described = record.manifest["data"]
    try:
        dataset = data.load(described["name"], described["split"], limit=described["n"])
    except CasemateError as error:
        return Originals({}, str(error))
    if dataset.fingerprint != described["fingerprint"]:
        return Originals({}, f"{described['name']} is not the data set that was audited")
    return Originals({index: dataset.images[index].numpy() for index in indices}, None)
