"""The command line: parses, calls the library, prints. Each command is one function of the library."""

import contextlib
import ctypes
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casemate import __version__
from casemate.errors import CasemateError

if TYPE_CHECKING:
    import torch

    from casemate.checkpoint import OpenedModel
    from casemate.data import Dataset
    from casemate.gradients import Precision
    from casemate.threat import L1, L2, Linf

    Ball = Linf | L2 | L1

app = typer.Typer(
    name="casemate",
    help="Train, attack and audit image classifiers: what is proved, what is broken and what is still unknown.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A checkpoint folder, file.py:callable or package.module:callable."),
]
Data = Annotated[str, typer.Option("--data", help="A data set of `casemate data`, or folder:PATH.")]
Split = Annotated[str, typer.Option(help="train or test.")]
ThreatText = Annotated[
    str, typer.Option("--threat", help="Norm and radius on [0, 1] images, such as linf:8/255.")
]
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


@app.callback()
def _casemate(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where to put networks, runs and pages.")] = Path("runs/demo"),
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """The whole story in a few minutes on real digits: a natural and a robust network, trained, audited, compared."""
    from casemate import console
    from casemate import demo as story

    with console.Bar("demo") as bar:
        result = story.run(folder, seed=seed, bar=bar, say=lambda text: None if json else console.say(text))
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


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A YAML file, or a built-in recipe's name.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="The checkpoint folder; runs/RECIPE if left out.")] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="List the built-in recipes and stop.")] = False,
    seed: Annotated[int | None, typer.Option(help="Overrides the recipe's seed.")] = None,
    devices: Annotated[int, typer.Option(help="Processes that share each batch.")] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: PrecisionName = "auto",
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Train a classifier by a recipe; writes a checkpoint folder with weights, card and log."""
    from casemate import console
    from casemate.training import recipe as recipes
    from casemate.training.train import Settings
    from casemate.training.train import train as run

    if list_recipes or not recipe:
        names = {name: path.read_text().splitlines()[0].lstrip("# ") for name, path in recipes.built_in().items()}
        if json:
            console.print_json(names)
        else:
            console.print_table("recipes", ("name", "what it trains"), names.items())
        return
    chosen = recipes.find(recipe)
    if seed is not None:
        chosen = chosen.model_copy(update={"seed": seed})
    folder = out or Path("runs") / Path(recipe).stem
    settings = Settings(devices, accelerator, _precision(precision), resume, _command())
    with console.Bar(f"train {folder.name}") as bar, _resumable(folder):
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


@app.command()
def audit(
    model: Model,
    data: Data,
    threat: ThreatText,
    split: Split = "test",
    preset: Annotated[str, typer.Option(help="How hard to try: quick, standard or thorough.")] = "standard",
    limit: Limit = None,
    weights: Weights = None,
    run: Annotated[Path | None, typer.Option(help="The run folder; named after the audit if left out.")] = None,
    require: Annotated[
        float | None, typer.Option(help="Exit with status 1 if attacked accuracy is below this share.")
    ] = None,
    curves: Annotated[bool, typer.Option(help="Also measure accuracy against eps and loss paths.")] = True,
    block_size: Annotated[int, typer.Option(help="Images stored at a time; what a killed audit may lose.")] = 256,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: PrecisionName = "auto",
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Give every image a verdict with evidence: a run folder that `check` replays, and its page."""
    from casemate import audit as auditing
    from casemate import console, report

    opened, dataset, ball = _open(model, weights, data, split, limit, threat, device)
    folder = run or Path("runs") / f"{_stem(model)}-{data.replace(':', '-').replace('/', '-')}-{ball}-{preset}".replace(
        ":", ""
    ).replace("/", "_")
    with console.Bar("audit") as bar, _resumable(folder):
        summary = auditing.audit(
            opened.model,
            dataset,
            ball,
            run=folder,
            preset=preset,
            seed=seed,
            precision=_precision(precision),
            batch_size=batch_size,
            block_size=block_size,
            resume=resume,
            curves=curves,
            spec=model,
            weights=None if weights is None else str(weights),
            card=opened.card,
            command=_command(),
            progress=bar.auditing,
        )
    page = report.write(folder)
    if json:
        console.print_json(summary.as_json())
    else:
        console.print_summary(summary)
        console.say(f"report: {page}\ncheck it: casemate check {folder}")
    if require is not None and summary.bracket.attacked_accuracy < require:
        raise typer.Exit(1)


@app.command()
def attack(
    model: Model,
    data: Data,
    threat: ThreatText,
    name: Annotated[str, typer.Option("--attack", help="fgsm, pgd, multi-target or transfer.")] = "pgd",
    split: Split = "test",
    n_steps: Annotated[int, typer.Option(help="Steps of PGD.")] = 40,
    step_size: Annotated[float | None, typer.Option(help="In the units of eps; 2.5 eps / steps if left out.")] = None,
    loss: Annotated[str, typer.Option(help="cross-entropy, margin or dlr.")] = "cross-entropy",
    n_restarts: Annotated[int, typer.Option(help="Independent random starts.")] = 1,
    target_rank: Annotated[
        int | None, typer.Option(help="Aim at the k-th most likely wrong class of each image.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="transfer: the MODEL the images are made on.")] = None,
    limit: Limit = None,
    weights: Weights = None,
    out: Annotated[Path | None, typer.Option(help="Write the images here as safetensors: x_adv, y, broken.")] = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: PrecisionName = "auto",
    json: Json = False,
) -> None:
    """Run one attack alone and say what it breaks."""
    import time

    import safetensors.torch

    from casemate import FGSM, PGD, MultiTarget, Restarts, Transfer, console, files
    from casemate.attacks import Attack, evaluate
    from casemate.checkpoint import open_model
    from casemate.gradients import Engine

    pgd = PGD(n_steps=n_steps, step_size=step_size, loss=loss, target_rank=target_rank)
    chosen: Attack
    match name:
        case "fgsm":
            chosen = FGSM(loss=loss)
        case "pgd":
            chosen = pgd
        case "multi-target":
            chosen = MultiTarget(pgd)
        case "transfer":
            if source is None:
                raise CasemateError("a transfer attack needs the network its images are made on: add --source MODEL")
            chosen = Transfer(open_model(source).model, pgd, source)
        case _:
            raise CasemateError(f"unknown attack {name!r}: choose fgsm, pgd, multi-target or transfer")
    if n_restarts != 1:
        chosen = Restarts(chosen, n_restarts)
    opened, dataset, ball = _open(model, weights, data, split, limit, threat, device)
    place = next(opened.model.parameters(), dataset.images).device
    if isinstance(chosen, Transfer):
        chosen.source.to(place)
    x, y = dataset.images.to(place), dataset.labels.to(place)
    start = time.perf_counter()
    outcome = evaluate(
        Engine(opened.model, precision=_precision(precision), batch_size=batch_size), x, y, ball, chosen, seed=seed
    )
    seconds = time.perf_counter() - start
    if out is not None:
        broken = outcome.right_before & ~outcome.right_after
        tensors = {"x_adv": outcome.x_adv.cpu(), "y": y.cpu(), "broken": broken.cpu()}
        files.write_bytes(out, safetensors.torch.save(tensors))
    result = {
        "model": model,
        "data": f"{data}[{split}]",
        "threat": str(ball),
        "attack": repr(chosen),
        "n": len(y),
        "seed": seed,
        "seconds": round(seconds, 3),
        "clean_accuracy": outcome.clean_accuracy,
        "attacked_accuracy": outcome.attacked_accuracy,
    }
    if json:
        console.print_json(result)
    else:
        console.print_table("attack", ("", "value"), ((key, str(value)) for key, value in result.items()))


@app.command()
def check(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of an audit.")],
    batch_size: BatchSize = None,
    json: Json = False,
) -> None:
    """Replay every claim of a run in full precision; exit status 1 if one fails."""
    from casemate import audit as auditing
    from casemate import console

    with console.Bar("check") as bar:
        result = auditing.check(run, batch_size=batch_size, progress=lambda done, n: bar.show(done, n, ""))
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


@app.command()
def report(runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of audits.")]) -> None:
    """Write the page of each run again."""
    from casemate import report as pages

    for run in runs:
        typer.echo(pages.write(run))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of audits.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("runs/compare.html"),
    json: Json = False,
) -> None:
    """A table and a page across runs."""
    from casemate import console
    from casemate import report as pages
    from casemate.audit import Store
    from casemate.audit.summary import summarise

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


@app.command()
def data(
    name: Annotated[
        str | None, typer.Argument(help="A data set to fetch and check; lists all if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """What data sets there are and where; with a name, fetch it if need be and check its files."""
    from dataclasses import asdict

    from casemate import console
    from casemate import data as datasets

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


@app.command()
def models(json: Json = False) -> None:
    """The architectures a recipe can name, their arguments and sizes."""
    from dataclasses import asdict

    from casemate import console
    from casemate import models as architectures

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


def main() -> None:
    """Run the command line; an error is one sentence on standard error and exit status 2."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    _keep_freed_memory()
    try:
        app(args=arguments)
    except (CasemateError, OSError, MemoryError) as error:
        if debug:
            raise
        sentence = " ".join(str(error).split()) or type(error).__name__
        typer.echo(f"casemate: {sentence}", err=True)
        sys.exit(2)


def _keep_freed_memory() -> None:
    """Have glibc reuse the memory of activations rather than give it back to the kernel after every layer.

    Page faults are 5 to 25% of the time of a gradient on a CPU (measured on Madry's network A at batches of 72 to
    400). A choice for a process of our own, so it is made here and not in the library; elsewhere it does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        libc.mallopt(mmap_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**30)


def _open(
    model: str, weights: Path | None, data: str, split: str, limit: int | None, threat: str, device: str
) -> "tuple[OpenedModel, Dataset, Ball]":
    """The three things every attack needs; the cheapest to refuse first."""
    from casemate import data as datasets
    from casemate import threat as threats
    from casemate.checkpoint import open_model

    ball = threats.parse(threat)
    opened = open_model(model, weights=weights)
    dataset = datasets.load(data, split, limit=limit, progress=True)
    opened.model.to(_device(device))
    return opened, dataset, ball


def _device(name: str) -> "torch.device":
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


def _precision(name: str) -> "Precision":
    from casemate.gradients import check_precision

    return check_precision(name)


@contextlib.contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Ctrl-C leaves a run that can go on, and says how."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"casemate: interrupted; {folder} is kept: the same command with --resume goes on", err=True)
        raise typer.Exit(130) from None


def _stem(model: str) -> str:
    return Path(model.rpartition(":")[0] or model).stem


def _command() -> str:
    return shlex.join(["casemate", *sys.argv[1:]])


if __name__ == "__main__":
    main()
