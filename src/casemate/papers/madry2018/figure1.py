"""Figure 1 (and figure 11 of appendix A): the loss along PGD from many random starts, for both networks of a pair."""

from collections.abc import Iterable

import polars as pl
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from casemate.attacks import loss_path
from casemate.papers import figures
from casemate.papers.item import Item, Outcome, Row, Run
from casemate.papers.madry2018.pair import COLOURS, NATURAL, TRAINED, Pair, labelled, open_pairs, start_keys

# The paper's numbers; the settings differ in their networks alone.
N_IMAGES, N_STARTS, N_STEPS = 5, 20, 100

# The paper states these claims in words; the limits are ours.
MOST_GROWTH, LEAST_RATIO = 0.02, 10.0


def make(run: Run) -> Outcome:
    """Paths of the cross-entropy over 100 iterations, and the claims of section 5.1 about where they end."""
    pairs, rows = open_pairs(run, N_IMAGES)
    drawn, frames = {}, []
    for pair in pairs:
        frame = paths(pair, run)
        drawn[pair.dataset.name] = figure(pair, frame, run)
        frames.append(frame)
        rows += claims(pair, frame)
    networks = tuple(network for pair in pairs for network in pair.networks.values())
    return Outcome(drawn, {"paths": pl.concat(frames)}, tuple(rows), networks)


def paths(pair: Pair, run: Run) -> pl.DataFrame:
    """The loss at every point of every run: one row for each network, image, start and step."""
    frames = []
    for done, (name, engine) in enumerate(pair.engines.items()):
        run.progress(done, len(pair.engines), f"{pair.dataset.title}, {name}")
        starts = torch.arange(N_STARTS, device=pair.x.device)
        keys = torch.cat([start_keys(run.seed, index, starts) for index in pair.index.tolist()])
        x, y = pair.x.repeat_interleave(N_STARTS, dim=0), pair.y.repeat_interleave(N_STARTS)
        loss = loss_path(engine, x, y, pair.threat, keys=keys, attack=pair.attack(N_STEPS))
        frames.append(_frame(pair, name, loss.cpu()))
    return pl.concat(frames)


def _frame(pair: Pair, network: str, loss: Float[Tensor, "points runs"]) -> pl.DataFrame:
    n_points, n_runs = loss.shape
    run = torch.arange(n_runs).repeat_interleave(n_points)
    frame = pl.DataFrame(
        {
            "image": pair.index[run // N_STARTS].numpy(),
            "start": (run % N_STARTS).numpy(),
            "step": torch.arange(n_points).repeat(n_runs).numpy(),
            "loss": loss.T.flatten().numpy(),
        }
    )
    return labelled(frame, data=pair.dataset.name, network=network)


def claims(pair: Pair, frame: pl.DataFrame) -> list[Row]:
    """What section 5.1 says of the figure, measured image by image."""
    ends = _ends(frame)
    rows = []
    for name in pair.engines:
        own = ends.filter(pl.col("network") == name)
        growth, spread = own["growth"].to_list(), own["spread"].to_list()
        what = f"{pair.dataset.title}, {name}"
        rows += [
            Row(
                f"{what}: growth of the loss from iteration {N_STEPS // 2} to {N_STEPS}",
                f"it plateaus (asked here: under {MOST_GROWTH:.0%})",
                _range(growth, ".2%"),
                _holds(value < MOST_GROWTH for value in growth),
            ),
            Row(
                f"{what}: coefficient of variation of the {N_STARTS} final losses",
                "the final losses are concentrated (no number)",
                _range(spread, ".2%"),
            ),
        ]
    ratio = _ratios(ends)
    rows.append(
        Row(
            f"{pair.dataset.title}: median final loss, {NATURAL} over {TRAINED}",
            f"far above 1 (asked here: over {LEAST_RATIO:g})",
            _range(ratio, ".3g"),
            _holds(value > LEAST_RATIO for value in ratio),
        )
    )
    return rows


def _ends(frame: pl.DataFrame) -> pl.DataFrame:
    """For each network and image: the median final loss, its growth over the second half, its spread over starts."""
    wide = frame.group_by("network", "image", "start", maintain_order=True).agg(
        middle=pl.col("loss").filter(pl.col("step") == N_STEPS // 2).first(),
        end=pl.col("loss").filter(pl.col("step") == N_STEPS).first(),
    )
    return wide.group_by("network", "image", maintain_order=True).agg(
        median=pl.col("end").median(),
        growth=1 - pl.col("middle").mean() / pl.col("end").mean(),
        spread=pl.col("end").std() / pl.col("end").mean(),
    )


def _ratios(ends: pl.DataFrame) -> list[float]:
    natural, trained = (ends.filter(pl.col("network") == name)["median"] for name in (NATURAL, TRAINED))
    return (natural / trained).to_list()


def _range(values: list[float], form: str) -> str:
    """The median over images, and the least and the largest."""
    median = torch.tensor(values).median()
    return f"{median:{form}} ({min(values):{form}} to {max(values):{form}})"


def _holds(answers: Iterable[bool]) -> str:
    known = list(answers)
    return f"holds for {sum(known)} of {len(known)} images"


def figure(pair: Pair, frame: pl.DataFrame, run: Run) -> Figure:
    """A row of panels for each network, one panel an image; every line is one run."""

    def onto(figure: Figure) -> None:
        panels = figure.subplots(len(pair.engines), len(pair.index), sharex=True, sharey="row", squeeze=False)
        for row, name in zip(panels, pair.engines, strict=True):
            for axes, index, label in zip(row, pair.index.tolist(), pair.y.tolist(), strict=True):
                own = frame.filter((pl.col("network") == name) & (pl.col("image") == index))
                runs = own["loss"].to_numpy().reshape(-1, N_STEPS + 1)
                axes.plot(runs.T, color=COLOURS[name], linewidth=0.8, alpha=0.6)
                axes.set_title(f"image {index}, class {label}")
                figures.no_vertical_grid(axes)
            row[0].set_ylabel(f"loss, {name}")
            row[0].set_ylim(bottom=0)
        for axes in panels[-1]:
            axes.set_xlabel("iteration")

    return figures.draw(
        onto,
        width=2.3 * max(len(pair.index), 3),
        height=5,
        title=f"Loss along {N_STEPS} iterations of PGD, {N_STARTS} random starts, {pair.dataset.title}, {pair.threat}",
        footer=figures.footer(
            run,
            f"n = {len(pair.index)} test images that both networks get right, {N_STARTS} starts each, "
            f"step {pair.dataset.step_size:.3g}",
            pair.networks.values(),
        ),
    )


ITEM = Item(
    "figure1",
    "loss along PGD iterations from 20 random starts",
    "figure 1; figure 11 of appendix A",
    {"small": "under a minute", "full": "a minute for MNIST; CIFAR-10 needs a GPU"},
    make,
)
