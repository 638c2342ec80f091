"""The options that commands share, and what they stand for."""

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casemate.errors import CasemateError

if TYPE_CHECKING:
    import torch

    from casemate.checkpoint import OpenedModel
    from casemate.data import Dataset
    from casemate.precision import Precision
    from casemate.threat import L1, L2, Linf

    Ball = Linf | L2 | L1

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A checkpoint folder, file.py:callable or package.module:callable."),
]
Data = Annotated[str, typer.Option("--data", help="A data set of `casemate data`, or folder:PATH.")]
Split = Annotated[str, typer.Option(help="train or test.")]
ThreatText = Annotated[str, typer.Option("--threat", help="Norm and radius on [0, 1] images, such as linf:8/255.")]
Weights = Annotated[Path | None, typer.Option(help="The model's weights: .safetensors, or .pt with plain tensors.")]
Limit = Annotated[int | None, typer.Option(help="Only the first N images of the split.")]
Seed = Annotated[int, typer.Option(help="Seeds every random choice.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")]
PrecisionName = Annotated[
    str, typer.Option("--precision", help="Of the search: auto (measured), float32 or bfloat16. Claims are float32.")
]
BatchSize = Annotated[int | None, typer.Option(help="Images in one pass; chosen to fit the memory if left out.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")]


def open_all(
    model: str, weights: Path | None, data: str, split: str, limit: int | None, threat: str, device: str
) -> "tuple[OpenedModel, Dataset, Ball]":
    """The three things every attack needs; the cheapest to refuse first."""
    from casemate import threat as threats

    ball = threats.parse(threat)
    return *open_both(model, weights, data, split, limit, device), ball


def open_both(
    model: str, weights: Path | None, data: str, split: str, limit: int | None, device: str
) -> "tuple[OpenedModel, Dataset]":
    from casemate import data as datasets
    from casemate.checkpoint import open_model

    opened = open_model(model, weights=weights)
    dataset = datasets.load(data, split, limit=limit, progress=True)
    opened.model.to(device_of(device))
    return opened, dataset


def device_of(name: str) -> "torch.device":
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CasemateError(f"the device {name!r} cannot be used ({reason}): choose cpu, cuda or auto") from None
    return device


def precision_of(name: str) -> "Precision":
    from casemate.precision import check_precision

    return check_precision(name)


@contextlib.contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Ctrl-C leaves a run that can go on, and says how."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"casemate: interrupted; {folder} is kept: the same command with --resume goes on", err=True)
        raise typer.Exit(130) from None


def stem(model: str) -> str:
    return Path(model.rpartition(":")[0] or model).stem


def command_line() -> str:
    return shlex.join(["casemate", *sys.argv[1:]])
