"""`casemate attack`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casemate.cli.options import (
    BatchSize,
    Data,
    Device,
    Json,
    Limit,
    Model,
    PrecisionName,
    Seed,
    Split,
    ThreatText,
    Weights,
    open_all,
    precision_of,
)
from casemate.errors import CasemateError

if TYPE_CHECKING:
    from casemate.papers.madry2018.challenge import Challenge


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
    submission: Annotated[
        Path | None, typer.Option(help="Write the images here as a submission to the challenge on this data (.npy).")
    ] = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: PrecisionName = "auto",
    json: Json = False,
) -> None:
    """Run one attack alone and say what it breaks."""
    import time

    import safetensors.torch

    from casemate import FGSM, PGD, MultiTarget, Restarts, Transfer, files
    from casemate.attacks import Attack, evaluate
    from casemate.checkpoint import open_model
    from casemate.cli import console
    from casemate.gradients import Engine
    from casemate.papers.madry2018.challenge import write_submission

    if target_rank is not None and name != "pgd":
        raise CasemateError(f"--target-rank is for --attack pgd, not {name}")
    if source is not None and name != "transfer":
        raise CasemateError(f"--source is for --attack transfer, not {name}")
    if name == "fgsm" and (step_size is not None or n_steps != 40 or n_restarts != 1):
        raise CasemateError("fgsm is one step of eps from the image: leave out --n-steps, --step-size and --n-restarts")
    challenge = None if submission is None else _challenge_on(data, split, limit, threat)
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
    opened, dataset, ball = open_all(model, weights, data, split, limit, threat, device)
    place = next(opened.model.parameters(), dataset.images).device
    if isinstance(chosen, Transfer):
        chosen.source.to(place)
    if n_restarts != 1:
        chosen = Restarts(chosen, n_restarts)
    x, y = dataset.images.to(place), dataset.labels.to(place)
    start = time.perf_counter()
    outcome = evaluate(
        Engine(opened.model, precision=precision_of(precision), batch_size=batch_size), x, y, ball, chosen, seed=seed
    )
    seconds = time.perf_counter() - start
    if out is not None:
        broken = outcome.right_before & ~outcome.right_after
        tensors = {"x_adv": outcome.x_adv.cpu(), "y": y.cpu(), "broken": broken.cpu()}
        files.write_bytes(out, safetensors.torch.save(tensors))
    if submission is not None and challenge is not None:
        write_submission(challenge, submission, outcome.x_adv.cpu(), dataset.images)
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


def _challenge_on(data: str, split: str, limit: int | None, threat: str) -> "Challenge":
    """The challenge that the attack is an entry to, or a refusal before any work is done."""
    from casemate import threat as threats
    from casemate.papers.madry2018.challenge import CHALLENGES

    if data not in CHALLENGES:
        raise CasemateError(f"there is no challenge on {data}: --submission goes with --data {' or '.join(CHALLENGES)}")
    challenge = CHALLENGES[data]
    if split != "test" or limit is not None:
        raise CasemateError("a submission is about the whole test split: leave out --split and --limit")
    if threats.parse(threat) != challenge.threat:
        raise CasemateError(f"the challenge on {data} is at {challenge.threat}: --submission needs that --threat")
    return challenge
