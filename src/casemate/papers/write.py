"""What an item leaves behind: its figures, its data, and one JSON file with the rows and all that repeats them."""

import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from casemate import files
from casemate.papers import figures
from casemate.papers.item import Outcome
from casemate.papers.networks import Network


def write(outcome: Outcome, folder: Path, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write each figure as PNG and SVG, each frame as Parquet, and last `folder`/`name`.json; returns what that holds.

    `facts` stand first in it, then the rows, the networks and the names of the other files. It is removed before the
    first file is written, so where it stands, the files beside it are all of the same making. Raises `CasemateError`
    where the folder cannot be written.
    """
    contents: dict[str, bytes] = {}
    for key, figure in outcome.figures.items():
        contents |= {f"{key}.png": figures.png(figure), f"{key}.svg": figures.svg(figure)}
    contents |= {f"{key}.parquet": _parquet(frame) for key, frame in outcome.data.items()}
    record = {
        **facts,
        "rows": [asdict(row) for row in outcome.rows],
        "networks": [_described(network) for network in outcome.networks],
        "files": list(contents),
    }
    (folder / f"{name}.json").unlink(missing_ok=True)
    for file, content in contents.items():
        files.write_bytes(folder / file, content)
    files.write_json(folder / f"{name}.json", record)
    return record


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _described(network: Network) -> dict[str, Any]:
    """`seconds` and `cpu_seconds` are those of its training, which may have been long before."""
    card = network.card
    known = {key: card.get(key) for key in ("sha256", "recipe", "metrics", "steps", "seconds", "cpu_seconds")}
    return {"name": network.name, "folder": str(network.folder), "trained_now": network.trained, **known}
