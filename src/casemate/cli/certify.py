"""`casemate certify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casemate.cli.options import (
    Device,
    Json,
    Limit,
    Model,
    Seed,
    Split,
    Weights,
    open_both,
)
from casemate.errors import CasemateError

if TYPE_CHECKING:
    from torch import Tensor


def certify(
    model: Model,
    data: Annotated[str | None, typer.Option(help="A data set of `casemate data`, or folder:PATH.")] = None,
    threat: Annotated[
        str | None, typer.Option(help="linf:8/255, l2:0.5, l1:12, l0:4 (pixels) or patch:5x5, on [0, 1] images.")
    ] = None,
    certifier: Annotated[
        str,
        typer.Option(
            help="ibp, crown-ibp, crown, alpha-crown, full-alpha-crown, branch-and-bound, zonotope or hybrid."
        ),
    ] = "ibp",
    slope: Annotated[
        str, typer.Option(help="crown: the line below an activation, adaptive, same, zero or one.")
    ] = "adaptive",
    relu: Annotated[
        str, typer.Option(help="zonotope, hybrid: what becomes of a ReLU: least-area, box, diagonal, switch or smooth.")
    ] = "least-area",
    n_steps: Annotated[
        int, typer.Option(help="alpha-crown and full-alpha-crown: steps of optimisation for each image.")
    ] = 20,
    radius: Annotated[
        bool, typer.Option("--radius", help="Where that much is not proved, find how much is, to 1/256 of it.")
    ] = False,
    split: Split = "test",
    limit: Limit = None,
    weights: Weights = None,
    out: Annotated[Path | None, typer.Option(help="Write what is proved of each image here, as CSV.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
    vnnlib: Annotated[
        Path | None, typer.Option(help="A property of MODEL, an ONNX file: prints sat, unsat, unknown or timeout.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="branch-and-bound, --vnnlib: seconds for an image or the property.", min=0)
    ] = 60,
) -> None:
    """Run one certifier alone and say what it proves."""
    if vnnlib is not None:
        _decide(model, vnnlib, timeout, n_steps, json)
        return
    if data is None or threat is None:
        raise CasemateError("give --data and --threat, or --vnnlib with an ONNX file")
    import time

    import polars as pl
    import torch

    from casemate import files, rng
    from casemate import threat as threats
    from casemate.bounds import (
        CROWN,
        CROWNIBP,
        IBP,
        AlphaCROWN,
        Bisection,
        BranchAndBound,
        ByZonotopes,
        Certifier,
        FullAlphaCROWN,
    )
    from casemate.bounds.relaxation import check_slope
    from casemate.cli import console

    line = check_slope(slope)
    chosen: Certifier
    match certifier:
        case "ibp":
            chosen = IBP()
        case "crown-ibp":
            chosen = CROWNIBP(slope=line)
        case "crown":
            chosen = CROWN(slope=line)
        case "alpha-crown":
            chosen = AlphaCROWN(slope=line, n_steps=n_steps)
        case "full-alpha-crown":
            chosen = FullAlphaCROWN(slope=line, n_steps=n_steps)
        case "branch-and-bound":
            chosen = BranchAndBound(slope=line, n_steps=n_steps, timeout=timeout)
        case "zonotope" | "hybrid":
            chosen = ByZonotopes(relu=relu, hybrid=certifier == "hybrid")
        case _:
            raise CasemateError(
                f"unknown certifier {certifier!r}: "
                "choose ibp, crown-ibp, crown, alpha-crown, full-alpha-crown, branch-and-bound, zonotope or hybrid"
            )
    if radius:
        chosen = Bisection(chosen)
    allowed = threats.parse_any(threat)
    opened, dataset = open_both(model, weights, data, split, limit, device)
    place = next(opened.model.parameters(), dataset.images).device
    parts = []
    start = time.perf_counter()
    with console.Bar("certify") as bar:
        for at in torch.arange(len(dataset)).split(256):
            bar.show(int(at[0]), len(dataset), certifier)
            x, y = dataset.images[at].to(place), dataset.labels[at].to(place)
            keys = rng.image_keys(seed, at.to(place))
            parts.append(chosen.certify(opened.model, x, y, allowed, keys=keys))
    seconds = time.perf_counter() - start
    holds = torch.cat([part.holds for part in parts]).cpu()
    margin = torch.cat([part.margin for part in parts]).cpu()
    radii = torch.cat([part.radius for part in parts]).cpu()
    if out is not None:
        columns = {"index": range(len(holds)), "certified": holds.tolist(), "margin": margin.tolist()}
        if radius:
            columns["radius"] = radii.tolist()
        files.write_bytes(out, pl.DataFrame(columns).write_csv().encode())
    result = {
        "model": model,
        "data": f"{data}[{split}]",
        "threat": str(allowed),
        "certifier": repr(chosen),
        "n": len(holds),
        "seed": seed,
        "seconds": round(seconds, 3),
        "certified": int(holds.sum()),
        "certified_accuracy": float(holds.double().mean()),
    }
    if radius:
        result |= {"median_radius": float(radii.median()), "mean_radius": float(radii.mean())}
    if json:
        console.print_json(result)
    else:
        console.print_table("certify", ("", "value"), ((key, str(value)) for key, value in result.items()))


def _decide(model: str, vnnlib: Path, timeout: float, n_steps: int, json: bool) -> None:
    from casemate.cli import console
    from casemate.models.from_onnx import read_network
    from casemate.vnn.verify import printed, verify
    from casemate.vnn.vnnlib import read_property

    prop = read_property(vnnlib)
    network, shape = read_network(Path(model))
    answer = verify(network, shape, prop, timeout, n_steps=n_steps)
    if json:
        console.print_json({"verdict": answer.verdict, "x": _numbers(answer.x), "y": _numbers(answer.y)})
    else:
        typer.echo(printed(answer))


def _numbers(values: "Tensor | None") -> list[float] | None:
    return None if values is None else values.double().tolist()
