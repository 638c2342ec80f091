"""`casemate train`."""

from pathlib import Path
from typing import Annotated

import typer

from casemate.cli.options import Json, PrecisionName, Resume, command_line, precision_of, resumable


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a name that --list lists.")] = "",
    out: Annotated[Path | None, typer.Option(help="The checkpoint folder; runs/RECIPE if left out.")] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="List the recipes that have names and stop.")] = False,
    seed: Annotated[int | None, typer.Option(help="Overrides the recipe's seed.")] = None,
    devices: Annotated[int, typer.Option(help="Processes that share each batch.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: PrecisionName = "auto",
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Train a classifier by a recipe; writes a checkpoint folder with weights, card and log."""
    from casemate.cli import console
    from casemate.papers import reproduce as papers
    from casemate.training import recipe as recipes
    from casemate.training.train import Settings
    from casemate.training.train import train as run

    known = recipes.built_in() | papers.recipes()
    if list_recipes or not recipe:
        names = {name: path.read_text().splitlines()[0].lstrip("# ") for name, path in known.items()}
        if json:
            console.print_json(names)
        else:
            console.print_table("recipes", ("name", "what it trains"), names.items())
        return
    chosen = recipes.read(known.get(recipe, Path(recipe)))
    if seed is not None:
        chosen = chosen.model_copy(update={"seed": seed})
    folder = out or Path("runs") / Path(recipe).stem
    settings = Settings(devices, accelerator, precision_of(precision), resume, command_line())
    with console.Bar(f"train {folder.name}") as bar, resumable(folder):
        card = run(chosen, folder, settings, observe=bar.training)
    if json:
        console.print_json({"checkpoint": str(folder), **card})
        return
    metrics = card["metrics"]
    console.print_table(
        f"{folder}, {card['threat']}, held-out images",
        ("clean accuracy", "one step", f"{chosen.check.n_steps} steps", "seconds"),
        [[f"{metrics['clean']:.2%}", f"{metrics['one_step']:.2%}", f"{metrics['attacked']:.2%}", card["seconds"]]],
    )
