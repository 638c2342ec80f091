"""`casemate data` and `casemate models`."""

from typing import Annotated

import typer

from casemate.cli.options import Json


def data(
    name: Annotated[str | None, typer.Argument(help="A data set to fetch and check; lists all if left out.")] = None,
    json: Json = False,
) -> None:
    """What data sets there are and where; with a name, fetch it if need be and check its files."""
    from dataclasses import asdict

    from casemate import data as datasets
    from casemate.cli import console

    if name is not None:
        splits = ["test"] if name.startswith("folder:") else ["train", "test"]
        loaded = [datasets.load(name, split, progress=not json) for split in splits]
        rows = [
            {
                "name": name,
                "split": d.split,
                "n": len(d),
                "shape": list(d.images.shape[1:]),
                "classes": d.n_classes,
                "fingerprint": d.fingerprint,
            }
            for d in loaded
        ]
        if json:
            console.print_json(rows)
        else:
            console.print_table(name, rows[0], [row.values() for row in rows])
        return
    described = datasets.describe()
    if json:
        console.print_json([asdict(row) for row in described])
        return
    console.print_table(
        "data sets",
        ("name", "train", "test", "classes", "shape", "where"),
        [
            (
                d.name,
                d.n_train or "",
                d.n_test or "",
                d.n_classes or "",
                "x".join(map(str, d.shape or ())),
                d.where or f"not here yet: {d.origin}",
            )
            for d in described
        ],
    )


def models(json: Json = False) -> None:
    """The architectures a recipe can name, their arguments and sizes."""
    from dataclasses import asdict

    from casemate import models as architectures
    from casemate.cli import console

    rows = architectures.describe()
    if json:
        console.print_json([asdict(row) for row in rows])
        return
    console.print_table(
        "architectures",
        ("name", "parameters", "arguments", "source"),
        [
            (row.name, f"{row.n_parameters:,}", ", ".join(f"{k}={v}" for k, v in row.arguments.items()), row.source)
            for row in rows
        ],
    )
