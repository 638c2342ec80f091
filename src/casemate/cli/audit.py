"""`casemate audit`."""

from pathlib import Path
from typing import Annotated

import typer

from casemate.cli.options import (
    BatchSize,
    Data,
    Device,
    Json,
    Limit,
    Model,
    PrecisionName,
    Resume,
    Seed,
    Split,
    ThreatText,
    Weights,
    command_line,
    device_of,
    open_all,
    precision_of,
    resumable,
    stem,
)


def audit(
    model: Model,
    data: Data,
    threat: ThreatText,
    split: Split = "test",
    preset: Annotated[str, typer.Option(help="How hard to try: quick, standard or thorough.")] = "standard",
    certifiers: Annotated[
        str | None,
        typer.Option(
            help="Which to try, such as ibp,crown: ibp, crown-ibp, crown, alpha-crown, full-alpha-crown, "
            "branch-and-bound, zonotope; none for none."
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="Another MODEL to transfer from, undefended or robust; may be given several times."),
    ] = None,
    limit: Limit = None,
    weights: Weights = None,
    run: Annotated[Path | None, typer.Option(help="The run folder; named after the audit if left out.")] = None,
    require: Annotated[
        float | None, typer.Option(help="Exit with status 1 if attacked accuracy is below this share.")
    ] = None,
    curves: Annotated[bool, typer.Option(help="Also measure accuracy against eps and loss paths.")] = True,
    diagnosis: Annotated[
        bool, typer.Option(help="First ask whether the attacks can be believed, and mend them.")
    ] = True,
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
    from casemate import report
    from casemate.checkpoint import open_model
    from casemate.cli import console

    opened, dataset, ball = open_all(model, weights, data, split, limit, threat, device)
    folder = run or Path("runs") / f"{stem(model)}-{data.replace(':', '-').replace('/', '-')}-{ball}-{preset}".replace(
        ":", ""
    ).replace("/", "_")
    with console.Bar("audit") as bar, resumable(folder):
        summary = auditing.audit(
            opened.model,
            dataset,
            ball,
            run=folder,
            preset=preset,
            proofs=None if certifiers is None else auditing.proofs_by_names(_names(certifiers)),
            sources={spec: open_model(spec).model.to(device_of(device)) for spec in source or ()},
            seed=seed,
            precision=precision_of(precision),
            batch_size=batch_size,
            block_size=block_size,
            resume=resume,
            curves=curves,
            diagnosis=diagnosis,
            spec=model,
            weights=None if weights is None else str(weights),
            card=opened.card,
            command=command_line(),
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


def _names(text: str) -> list[str]:
    return [] if text == "none" else [name.strip() for name in text.split(",")]
