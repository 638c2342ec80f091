"""The command line: each command parses, calls one function of the library and prints what it returns."""

import sys
from typing import Annotated

import typer

from casemate import __version__
from casemate.cli.attack import attack
from casemate.cli.audit import audit
from casemate.cli.certify import certify
from casemate.cli.challenge import challenge
from casemate.cli.check import check
from casemate.cli.demo import demo
from casemate.cli.export import export
from casemate.cli.lists import data, models
from casemate.cli.pages import compare, report
from casemate.cli.reproduce import reproduce
from casemate.cli.train import train
from casemate.errors import CasemateError, Contradiction
from casemate.malloc import keep_freed_memory

app = typer.Typer(
    name="casemate",
    help="Train, attack and audit image classifiers: what is proved, what is broken and what is still unknown.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
COMMANDS = (demo, train, audit, attack, certify, export, check, challenge, reproduce, report, compare, data, models)
for command in COMMANDS:
    app.command()(command)


@app.callback()
def _casemate(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; an error is one sentence on standard error and exit status 2."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    keep_freed_memory()
    try:
        app(args=arguments)
    except (CasemateError, Contradiction, OSError, MemoryError) as error:
        if debug:
            raise
        sentence = " ".join(str(error).split()) or type(error).__name__
        typer.echo(f"casemate: {sentence}", err=True)
        sys.exit(2)
