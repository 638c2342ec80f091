"""`casemate challenge`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from casemate.cli.options import BatchSize, Device, Json, Weights, device_of
from casemate.errors import CasemateError

if TYPE_CHECKING:
    from casemate.papers.madry2018.challenge import Challenge
    from casemate.papers.madry2018.challenge_score import Score


def challenge(
    name: Annotated[str, typer.Argument(metavar="mnist|cifar10", help="Which challenge of Madry et al. 2018.")],
    model: Annotated[
        str, typer.Option(help="The network: a checkpoint folder, file.py:callable or package.module:callable.")
    ],
    submission: Annotated[
        list[Path], typer.Option(help="A .npy file in the challenge's format; several count together.")
    ],
    weights: Weights = None,
    predictions: Annotated[Path | None, typer.Option(help="Write the predicted classes here, as .npy.")] = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Check submissions to a challenge of Madry et al. 2018, score them and place the score on its leaderboards."""
    from casemate import data as datasets
    from casemate.checkpoint import open_model
    from casemate.cli import console
    from casemate.gradients import Engine
    from casemate.papers.madry2018.challenge import CHALLENGES, read_submission, save_array
    from casemate.papers.madry2018.challenge_score import score

    if name not in CHALLENGES:
        raise CasemateError(f"there is no challenge {name!r}: choose {' or '.join(CHALLENGES)}")
    chosen = CHALLENGES[name]
    opened = open_model(model, weights=weights)
    dataset = datasets.load(chosen.data, "test", progress=True)
    entries = [read_submission(chosen, path, dataset.images) for path in submission]
    opened.model.to(device_of(device))
    result = score(
        Engine(opened.model, precision="float32", batch_size=batch_size),
        dataset,
        entries,
        expected_clean=_clean_accuracy_of(opened.card),
    )
    if predictions is not None:
        save_array(predictions, result.predictions.numpy())
    if json:
        places = {track.name: track.place(result.accuracy) for track in chosen.tracks}
        boards = {track.name: [[entry.attack, entry.accuracy] for entry in track.entries] for track in chosen.tracks}
        console.print_json(
            {"challenge": name, "model": model, **result.as_json(), "places": places, "leaderboards": boards}
        )
    else:
        _print(chosen, result, model)


def _clean_accuracy_of(card: dict[str, Any]) -> float | None:
    """What the card of a checkpoint says; its keys are free, so it may say nothing."""
    metrics = card.get("metrics")
    clean = metrics.get("clean") if isinstance(metrics, dict) else None
    return clean if isinstance(clean, float) else None


def _print(challenge: "Challenge", score: "Score", model: str) -> None:
    from casemate.cli import console

    rows = [
        (str(file.path), f"{file.accuracy:.2%}", f"{float(file.distance.max()):.6g}", file.outside)
        for file in score.files
    ]
    console.print_table(
        f"{challenge.data} challenge, {challenge.threat}, n = {len(score.labels)}, {model}",
        ("submission", "accuracy left", f"largest change, of {challenge.eps:g}", "outside by rounding"),
        rows,
    )
    ours = f"--> {'this submission' if len(rows) == 1 else 'these submissions together'}"
    for track in challenge.tracks:
        console.print_table(
            f"{track.name} leaderboard, accuracy of the challenge's own network",
            ("place", "attack", "accuracy left, %"),
            [(at, e.attack, e.accuracy) for at, e in enumerate(track.with_ours(score.accuracy, ours), start=1)],
        )
    low, high = score.interval
    bracket = score.bracket
    typer.echo(
        f"score: {score.accuracy:.2%} of the images left, in [{low:.2%}, {high:.2%}] at 95% confidence\n"
        f"clean accuracy {score.clean_accuracy:.2%}; of {bracket.n} images {bracket.misclassified} misclassified, "
        f"{bracket.broken} broken inside {challenge.threat}, {bracket.unresolved} unresolved"
    )
