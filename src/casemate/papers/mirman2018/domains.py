"""The domains side by side on one network: what each proves, how tightly, how fast and in how much memory."""

import multiprocessing
import re
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from matplotlib.figure import Figure
from torch import nn

from casemate.bounds import CROWN, CROWNIBP, IBP, AlphaCROWN, ByZonotopes, Certifier
from casemate.papers import figures
from casemate.papers.evaluation import Accuracy, evaluation, percent
from casemate.papers.item import Item, Outcome, Row, Run, Setting
from casemate.papers.networks import Network
from casemate.threat import Images, Linf

EPS = 0.1
NETWORK = "mnist-near"
N_IMAGES: dict[Setting, int] = {"small": 100, "full": 1000}
DOMAINS: dict[str, Certifier] = {
    "intervals": IBP(),
    "CROWN-IBP": CROWNIBP(),
    "hBox": ByZonotopes(relu="box", hybrid=True),
    "hDiag": ByZonotopes(relu="diagonal", hybrid=True),
    "hSwitch": ByZonotopes(relu="switch", hybrid=True),
    "hSmooth": ByZonotopes(relu="smooth", hybrid=True),
    "hNIPS": ByZonotopes(relu="least-area", hybrid=True),
    "zSwitch": ByZonotopes(relu="switch"),
    "zSmooth": ByZonotopes(relu="smooth"),
    "zNIPS (DeepZ)": ByZonotopes(relu="least-area"),
    "CROWN": CROWN(),
    "alpha-CROWN": AlphaCROWN(),
}


@dataclass(frozen=True)
class Cost:
    """The least margin of each image, the seconds of all, and the MiB that the process grew by at most."""

    margins: list[float]
    seconds: float
    mebibytes: float


def make(run: Run) -> Outcome:
    """Every domain in a process of its own, one after the other, so that none has the memory of another."""
    network = run.network(NETWORK)
    judged = evaluation(network, N_IMAGES[run.setting], run.seed)
    rows = []
    for done, (name, certifier) in enumerate(DOMAINS.items()):
        run.progress(done, len(DOMAINS), name)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            arguments = (certifier, network.model, judged.x, judged.y, torch.get_num_threads())
            cost: Cost = pool.submit(costs, *arguments).result()
        rows.append(row_of(name, cost))
    table = pl.DataFrame(rows)
    shown = tuple(
        Row(
            f"linf:{EPS:g}, {row['domain']}",
            "",
            percent(row),
            f"median margin {row['margin']:.2f}; {1000 * row['seconds'] / row['n']:.0f} ms an image; "
            f"{row['mebibytes']:.0f} MiB",
        )
        for row in table.iter_rows(named=True)
    )
    return Outcome({"domains": figure(table, run, network)}, {"domains": table}, shown, (network,))


def costs(certifier: Certifier, model: nn.Module, x: Images, y: torch.Tensor, n_threads: int) -> Cost:
    """What certifying takes in this process, after a first image that pays for what is set up once."""
    torch.set_num_threads(n_threads)
    IBP().certify(model, x[:1], y[:1], Linf(EPS))
    before, start = forget_peak(), time.perf_counter()
    found = certifier.certify(model, x, y, Linf(EPS))
    seconds = time.perf_counter() - start
    return Cost(found.margin.tolist(), seconds, resident_peak() - before)


def row_of(name: str, cost: Cost) -> dict[str, Any]:
    """A row of the table."""
    margins = torch.tensor(cost.margins)
    return {
        "domain": name,
        "margin": float(margins.median()),
        "seconds": cost.seconds,
        "mebibytes": cost.mebibytes,
        **Accuracy(int((margins > 0).sum()), len(margins)).columns(),
    }


def forget_peak() -> float:
    """The MiB that are resident now, which the peak is counted from again; nothing is known outside of Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    return _status("VmRSS")


def resident_peak() -> float:
    """The most MiB that were resident since `forget_peak`."""
    return _status("VmHWM")


def _status(entry: str) -> float:
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return float("nan")
    found = re.search(rf"{entry}:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else float("nan")


def figure(table: pl.DataFrame, run: Run, network: Network) -> Figure:
    """What is proved, how far, how fast and in how much memory: a row for each domain."""
    panels = (
        ("certified, %", (100 * table["accuracy"]).to_numpy(), "linear"),
        ("median margin", table["margin"].to_numpy(), "linear"),
        ("ms an image", (1000 * table["seconds"] / table["n"]).to_numpy(), "log"),
        ("MiB", table["mebibytes"].to_numpy(), "linear"),
    )

    def onto(figure: Figure) -> None:
        every = figure.subplots(1, len(panels), sharey=True)
        for axes, (label, values, scale) in zip(every, panels, strict=True):
            axes.barh(table["domain"].to_list(), values, color=figures.BLUE)
            axes.set_xscale(scale)
            axes.set_xlabel(label)
        every[0].invert_yaxis()

    return figures.draw(
        onto,
        width=9,
        height=4.5,
        title=f"Domains on one network at linf {EPS:g}",
        footer=figures.footer(run, f"n = first {table['n'][0]:,} test images", (network,)),
    )


ITEM = Item(
    "domains",
    "the domains by what they prove, their margins, their time and their memory",
    "section 5, on one network",
    {"small": "2 minutes", "full": "20 minutes"},
    make,
)
