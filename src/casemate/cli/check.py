"""`casemate check`."""

from pathlib import Path
from typing import Annotated

import typer

from casemate.cli.options import BatchSize, Device, Json, device_of


def check(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of an audit.")],
    batch_size: BatchSize = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Replay every claim of a run in full precision; exit status 1 if one fails."""
    from casemate import audit as auditing
    from casemate.cli import console

    with console.Bar("check") as bar:
        result = auditing.check(
            run,
            device=device_of(device),
            batch_size=batch_size,
            progress=lambda done, n: bar.show(done, n, ""),
        )
    if json:
        console.print_json(result.as_json())
    else:
        for failure in result.failures:
            where = "the run" if failure.index is None else f"image {failure.index}"
            console.say(f"{where}: {failure.sentence}")
        verdict = "every claim holds" if result.ok else f"{len(result.failures)} claims fail"
        console.say(f"{run}: {verdict}; {result.n} images, {result.replayed} adversarial images replayed")
    if not result.ok:
        raise typer.Exit(1)
