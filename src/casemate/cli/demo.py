"""`casemate demo`."""

from pathlib import Path
from typing import Annotated

import typer

from casemate.cli.options import Json, Seed


def demo(
    folder: Annotated[Path, typer.Option(help="Where to put networks, runs and pages.")] = Path("runs/demo"),
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """The whole story in a few minutes on real digits: a natural and a robust network, trained, audited, compared."""
    from casemate import demo as story
    from casemate.cli import console

    with console.Bar("demo") as bar:
        result = story.run(
            folder,
            seed=seed,
            say=lambda text: None if json else console.say(text),
            training=bar.training,
            auditing=bar.auditing,
        )
    if json:
        console.print_json(result.as_json())
        return
    console.print_table(
        "linf:0.3 on 1,000 digits, one preset for both",
        ("network", "clean accuracy", "attacked accuracy", "report"),
        [
            (name, f"{s.bracket.clean_accuracy:.1%}", f"{s.bracket.attacked_accuracy:.1%}", str(page))
            for name, s, page in result.rows()
        ],
    )
    console.say(f"side by side: {result.comparison}")
