"""Bounds by Casemate and by auto_LiRPA on the same network and images, in float32 and without rounding accounted for.

The interval pass on the medium network of Gowal et al., CROWN and alpha-CROWN on a network that others trained
(kw_mnist.pth of auto_LiRPA's examples, in FOLDER): the largest difference of the margins, times, and the memory that a
process of its own grew by at most.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import lirpa, record
from casemate import data, models
from casemate.bounds import Intervals, LinearBounds, Tracing, box_of, least_margins, propagate
from casemate.bounds.optimised import OptimisedBounds, optimised_margins
from casemate.bounds.specification import differences
from casemate.malloc import keep_freed_memory
from casemate.papers.mirman2018.domains import forget_peak, resident_peak
from casemate.threat import Linf

NAME = "bounds_speed"
N_STEPS = 20
# At 0.2 hardly a margin is proved; one that is would need no further steps of ours.
CASES = (("IBP", 0.1, 256), ("CROWN", 0.1, 16), ("alpha-CROWN", 0.2, 8), ("full-alpha-CROWN", 0.2, 8))


def main() -> None:
    parser = record.options(__doc__)
    parser.add_argument("--networks", type=Path, required=True, help="the folder that holds kw_mnist.pth")
    arguments = parser.parse_args()
    record.run(NAME, arguments, lambda: _measure(arguments), _table)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    # Before anything is computed.
    lirpa.load()
    dataset = data.load("mnist", "test", limit=256)
    rows = []
    for method, eps, n in CASES:
        model = _network(method, arguments.networks)
        x, y = dataset.images[:n], dataset.labels[:n]
        found = {}
        for library, function in (("casemate", _ours), ("auto_LiRPA", _theirs)):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                task = (function, method, model, x, y, eps, arguments.repeats, torch.get_num_threads())
                found[library] = pool.submit(_timed, *task).result()
        (ours, our_time, our_memory), (theirs, their_time, their_memory) = found.values()
        gap = torch.tensor(ours) - torch.tensor(theirs)
        rows.append(
            {
                "method": method,
                "n": n,
                "eps": eps,
                "least_gap": float(gap.min()),
                "largest_gap": float(gap.max()),
                "seconds": our_time,
                "their_seconds": their_time,
                "times_as_fast": their_time / our_time,
                "mebibytes": our_memory,
                "their_mebibytes": their_memory,
            }
        )
    return {"rows": rows}


def _network(method: str, folder: Path) -> nn.Module:
    if method == "IBP":
        torch.manual_seed(0)
        return models.build("gowal-medium", init="ibp").eval()
    model = models.build("diffai-conv-med")
    weights = torch.load(folder / "kw_mnist.pth", map_location="cpu", weights_only=True)
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else weights
    if not all(isinstance(value, Tensor) for value in weights.values()):
        weights = next(iter(weights.values()))
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model.eval()


def _timed(
    function: Any, method: str, model: nn.Module, x: Tensor, y: Tensor, eps: float, repeats: int, threads: int
) -> tuple[list[list[float]], float, float]:
    """The margins, the best time of some repeats, and the MiB of the first."""
    torch.set_num_threads(threads)
    # As Casemate's commands do; without it page faults are a good part of either library's time.
    keep_freed_memory()
    compute = function(method, model, x, y, eps)
    before = forget_peak()
    margins = compute()
    grown = resident_peak() - before
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - start)
    return margins.tolist(), min(seconds), grown


def _ours(method: str, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Any:
    graph = Tracing(model.requires_grad_(False), x[:1]).graph()
    domain, threat = Intervals(), Linf(eps)

    def compute() -> Tensor:
        box = box_of(threat, x, domain)
        if method == "IBP":
            with torch.no_grad():
                return least_margins(graph, None, propagate(graph, domain, box, forget=True), y)
        with torch.no_grad():
            if method == "full-alpha-CROWN":
                bounds: LinearBounds = OptimisedBounds(graph, threat, x, box, domain, n_steps=N_STEPS)
            else:
                bounds = LinearBounds(graph, threat, x, box, domain)
            if method == "CROWN":
                return bounds.margins(y)
        return optimised_margins(bounds, y, N_STEPS)

    return compute


def _theirs(method: str, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Any:
    library = lirpa.load()
    options = {"optimize_bound_args": {"iteration": N_STEPS}}
    bounded = library.BoundedModule(model, x[:1], bound_opts=options)
    lower, upper = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    image = library.BoundedTensor(x, library.PerturbationLpNorm(norm=float("inf"), eps=eps, x_L=lower, x_U=upper))
    rows = differences(y, 10).to(x)
    # Theirs optimises the bounds of inner layers as well.
    name = {"IBP": "IBP", "CROWN": "CROWN"}.get(method, "CROWN-Optimized")

    def compute() -> Tensor:
        with torch.set_grad_enabled(name == "CROWN-Optimized"):
            margins, _ = bounded.compute_bounds(x=(image,), C=rows, method=name, bound_upper=False)
        return margins.detach()

    return compute


def _table(found: dict[str, Any]) -> str:
    lines = [
        "| bound | images | ours minus theirs, least and most | times as fast | MiB, ours and theirs |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        gaps, memory = f"{row['least_gap']:.1e}, {row['largest_gap']:.1e}", f"{row['mebibytes']:.0f}"
        speed = f"{row['times_as_fast']:.2f}"
        lines.append(f"| {row['method']} | {row['n']} | {gaps} | {speed} | {memory}, {row['their_mebibytes']:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
