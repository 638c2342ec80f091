"""Figure 2: how the final loss of PGD is distributed over very many random starts, for both networks of a pair."""

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from casemate.attacks import loss_path
from casemate.papers import figures
from casemate.papers.item import Item, Outcome, Row, Run, Setting
from casemate.papers.madry2018.pair import COLOURS, NATURAL, TRAINED, Pair, labelled, open_pairs, start_keys

N_IMAGES = 5
N_STARTS: dict[Setting, int] = {"small": 1000, "full": 100_000}
N_STEPS: dict[Setting, int] = {"small": 60, "full": 100}
# Starts at a time: bounds the memory, 12 MB of images at a time for CIFAR-10.
AT_A_TIME = 1000
N_BINS = 80


def make(run: Run) -> Outcome:
    """The final cross-entropy of every start, and the claims of section 5.1 about their distribution."""
    pairs, rows = open_pairs(run, N_IMAGES)
    drawn, frames = {}, []
    for pair in pairs:
        frame = final_losses(pair, run)
        drawn[pair.dataset.name] = figure(pair, frame, run)
        frames.append(frame)
        rows += claims(pair, frame)
    networks = tuple(network for pair in pairs for network in pair.networks.values())
    return Outcome(drawn, {"final-losses": pl.concat(frames)}, tuple(rows), networks)


def final_losses(pair: Pair, run: Run) -> pl.DataFrame:
    """One row for each network, image and start."""
    frames = []
    for name in pair.engines:
        for place, index in enumerate(pair.index.tolist()):
            losses = _from_all_starts(pair, name, place, run).numpy()
            frame = pl.DataFrame({"loss": losses}).with_row_index("start")
            frames.append(labelled(frame, data=pair.dataset.name, network=name, image=index))
    return pl.concat(frames)


def _from_all_starts(pair: Pair, name: str, place: int, run: Run) -> Float[Tensor, "starts"]:
    n, attack, index = N_STARTS[run.setting], pair.attack(N_STEPS[run.setting]), int(pair.index[place])
    found = []
    for first in range(0, n, AT_A_TIME):
        run.progress(first, n, f"{pair.dataset.title}, {name}, image {index}")
        starts = torch.arange(first, min(first + AT_A_TIME, n), device=pair.x.device)
        x = pair.x[place].expand(len(starts), -1, -1, -1)
        y = pair.y[place].expand(len(starts))
        keys = start_keys(run.seed, index, starts)
        found.append(loss_path(pair.engines[name], x, y, pair.threat, keys=keys, attack=attack)[-1].cpu())
    return torch.cat(found)


def claims(pair: Pair, frame: pl.DataFrame) -> list[Row]:
    """Whether the losses are concentrated, without outliers, and those of the two networks apart; image by image."""
    facts = frame.group_by("network", "image", maintain_order=True).agg(
        low=pl.col("loss").min(),
        high=pl.col("loss").max(),
        median=pl.col("loss").median(),
        spread=pl.col("loss").std() / pl.col("loss").mean(),
    )
    rows = []
    for name in pair.engines:
        own = facts.filter(pl.col("network") == name)
        spread, beyond = own["spread"].to_numpy(), (own["high"] / own["median"]).to_numpy()
        rows += [
            Row(
                f"{pair.dataset.title}, {name}: coefficient of variation of the final losses",
                "concentrated (no number)",
                f"{np.median(spread):.2%} ({spread.min():.2%} to {spread.max():.2%})",
            ),
            Row(
                f"{pair.dataset.title}, {name}: largest final loss over the median",
                "no outliers (no number)",
                f"at most {beyond.max():.3g}",
                f"{len(frame) // len(facts):,} starts for each of {len(own)} images",
            ),
        ]
    natural, trained = (facts.filter(pl.col("network") == name) for name in (NATURAL, TRAINED))
    apart = (natural["low"] > trained["high"]).sum()
    rows.append(
        Row(
            f"{pair.dataset.title}: every final loss of the {TRAINED} network below every one of the {NATURAL} one",
            "in the figure, for each image",
            f"for {apart} of {len(natural)} images",
        )
    )
    return rows


def figure(pair: Pair, frame: pl.DataFrame, run: Run) -> Figure:
    """One panel an image with the histograms of both networks, counts on a logarithmic axis, as in the paper."""
    bins = np.linspace(0, 1.02 * max(frame["loss"].to_numpy().max(), 1e-6), N_BINS + 1).tolist()

    def onto(figure: Figure) -> None:
        panels = figure.subplots(1, len(pair.index), sharex=True, sharey=True, squeeze=False)[0]
        for axes, index, label in zip(panels, pair.index.tolist(), pair.y.tolist(), strict=True):
            for name in pair.engines:
                own = frame.filter((pl.col("network") == name) & (pl.col("image") == index))
                axes.hist(own["loss"].to_numpy(), bins=bins, color=COLOURS[name], alpha=0.85, label=name, log=True)
            axes.set_title(f"image {index}, class {label}")
            axes.set_xlabel("final loss")
            figures.no_vertical_grid(axes)
        panels[0].set_ylabel("starts (logarithmic)")
        # Half a start, so that a single one is seen.
        panels[0].set_ylim(bottom=0.5)
        figures.legend_above(panels[0], columns=1)

    n, n_steps = N_STARTS[run.setting], N_STEPS[run.setting]
    return figures.draw(
        onto,
        width=2.3 * max(len(pair.index), 3),
        height=3.2,
        title=f"Final loss of PGD from {n:,} random starts, {pair.dataset.title}, {pair.threat}",
        footer=figures.footer(
            run,
            f"n = {len(pair.index)} test images that both networks get right, {n:,} starts each, {n_steps} steps of "
            f"{pair.dataset.step_size:.3g}",
            pair.networks.values(),
        ),
    )


ITEM = Item(
    "figure2",
    "final loss of PGD over very many random starts",
    "figure 2",
    {"small": "3 minutes", "full": "16 hours for MNIST; CIFAR-10 needs a GPU"},
    make,
)
