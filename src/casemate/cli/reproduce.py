"""`casemate reproduce`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casemate.cli.options import Device, Json, PrecisionName, Seed, command_line, device_of, precision_of

if TYPE_CHECKING:
    from casemate.papers.item import Paper
    from casemate.papers.reproduce import Made


def reproduce(
    paper: Annotated[str | None, typer.Argument(metavar="[PAPER]", help="Lists the papers if left out.")] = None,
    item: Annotated[str | None, typer.Argument(metavar="[ITEM]", help="Lists the paper's items if left out.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="The paper's own setting; otherwise one for minutes on 2 cores.")
    ] = False,
    out: Annotated[Path, typer.Option(help="The files go to OUT/PAPER/ITEM-small or -full.")] = Path("runs"),
    networks: Annotated[
        Path | None,
        typer.Option(help="Where the paper's networks are, or are trained to; OUT/PAPER/networks if left out."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: PrecisionName = "auto",
    json: Json = False,
) -> None:
    """Make a figure or table of a paper: figure, data, and the published values beside ours."""
    from casemate.cli import console
    from casemate.papers import reproduce as papers

    if paper is None:
        _list_papers(json)
        return
    chosen = papers.find_paper(paper)
    if item is None:
        _list_items(chosen, json)
        return
    wanted = papers.find_item(chosen, item)
    place, search = device_of(device), precision_of(precision)
    try:
        with console.Bar(f"{paper} {item}") as bar:
            made = papers.reproduce(
                chosen,
                wanted,
                setting="full" if full else "small",
                out=out,
                networks=networks,
                seed=seed,
                device=place,
                precision=search,
                command=command_line(),
                say=lambda text: None if json else console.say(text),
                progress=bar.show,
                training=bar.training,
            )
    except KeyboardInterrupt:
        typer.echo("casemate: interrupted; trained networks are kept, and the same command goes on", err=True)
        raise typer.Exit(130) from None
    if json:
        console.print_json({"folder": str(made.folder), **made.record})
    else:
        _print(made)


def _list_papers(json: bool) -> None:
    from casemate.cli import console
    from casemate.papers.reproduce import PAPERS

    if json:
        console.print_json({name: paper.title for name, paper in PAPERS.items()})
    else:
        console.print_table("papers", ("name", "title"), ((name, paper.title) for name, paper in PAPERS.items()))


def _list_items(paper: "Paper", json: bool) -> None:
    from casemate.cli import console

    if json:
        columns = ("name", "title", "where", "times")
        console.print_json([{column: getattr(item, column) for column in columns} for item in paper.items])
        return
    console.print_table(
        f"{paper.title} (times on 2 cores, without the training of networks)",
        ("item", "what it shows", "in the paper", "small", "--full"),
        ((i.name, i.title, i.where, i.times["small"], i.times["full"]) for i in paper.items),
    )


def _print(made: "Made") -> None:
    from casemate.cli import console

    record = made.record
    console.print_table(
        f"{record['paper']} {record['item']}, {record['setting']} setting, seed {record['seed']}, "
        f"{record['seconds']:.0f} s",
        ("item", "published", "ours", "note"),
        ((row["item"], row["published"], row["ours"], row["note"]) for row in record["rows"]),
    )
    console.say(f"files in {made.folder}: {', '.join(record['files'])}")
