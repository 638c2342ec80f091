"""`casemate report` and `casemate compare`."""

from pathlib import Path
from typing import Annotated

import typer

from casemate.cli.options import Json


def report(runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of audits.")]) -> None:
    """Write the page of each run again."""
    from casemate import report as pages

    for run in runs:
        typer.echo(pages.write(run))


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of audits.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("runs/compare.html"),
    json: Json = False,
) -> None:
    """A table and a page across runs."""
    from casemate import report as pages
    from casemate.audit import Store
    from casemate.audit.summary import summarise
    from casemate.cli import console

    summaries = [summarise(Store(run)) for run in runs]
    page = pages.compare(runs, out)
    if json:
        console.print_json({"page": str(page), "runs": [summary.as_json() for summary in summaries]})
        return
    console.print_table(
        "runs",
        ("model", "data", "threat", "n", "clean", "attacked", "certified", "seconds"),
        [
            (
                s.model,
                s.data,
                s.threat,
                s.bracket.n,
                f"{s.bracket.clean_accuracy:.2%}",
                f"{s.bracket.attacked_accuracy:.2%}",
                f"{s.bracket.certified_accuracy:.2%}",
                s.seconds,
            )
            for s in summaries
        ],
    )
    console.say(f"page: {page}")
