"""`casemate export`."""

from pathlib import Path
from typing import Annotated

import typer

from casemate.cli.options import Json, Model, Split, Weights


def export(
    model: Model,
    out: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
    data: Annotated[str, typer.Option(help="A data set of `casemate data`, or folder:PATH, that MODEL is for.")],
    split: Split = "test",
    weights: Weights = None,
    json: Json = False,
) -> None:
    """Write a classifier as ONNX, and compare it with ONNX Runtime on 64 images."""
    from casemate import data as datasets
    from casemate.checkpoint import open_model
    from casemate.cli import console
    from casemate.vnn.export import write_network

    opened = open_model(model, weights=weights)
    dataset = datasets.load(data, split, limit=64, progress=True)
    difference = write_network(opened.model, out, dataset.images)
    result = {
        "model": model,
        "file": str(out),
        "input": [str(size) for size in ("batch", *dataset.images.shape[1:])],
        "compared_on": f"{data}[{split}], {len(dataset)} images",
        "largest_difference": difference,
    }
    if json:
        console.print_json(result)
    else:
        console.print_table("export", ("", "value"), ((key, str(value)) for key, value in result.items()))
