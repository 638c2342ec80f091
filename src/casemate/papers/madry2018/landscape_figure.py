"""The claims of appendix A about the maxima of the loss, and the figure that shows them."""

import math

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from casemate.papers import figures
from casemate.papers.item import Row, Run
from casemate.papers.madry2018.pair import COLOURS, Pair

MAXIMA, RANDOM = "maxima", "random points"
N_BINS = 60

Frames = dict[str, pl.DataFrame]


def claims(pair: Pair, frames: Frames, expected: float) -> list[Row]:
    """What appendix A says in words, beside medians over all images (and the middle 90% of the values).

    `expected` is the exact root mean square distance of two random points, with the box.
    """
    d = pair.x[0].numel()
    free = pair.threat.eps * math.sqrt(2 * d / 3)
    random = frames["pairs"].filter(pl.col("between") == RANDOM)
    rows = [
        Row(
            f"{pair.dataset.title}: l2 distance between two random points of the ball",
            f"no number; eps sqrt(2 d / 3) = {free:.2f} without the box",
            _middle(random["distance"], ".2f"),
            f"{expected:.2f} by the closed form with the box",
        )
    ]
    for network in pair.engines:
        what = f"{pair.dataset.title}, {network}"
        own = {key: frame.filter(pl.col("network") == network) for key, frame in frames.items()}
        maxima = own["pairs"].filter(pl.col("between") == MAXIMA)
        rows += [
            Row(
                f"{what}: l2 distance between two maxima",
                "close to that of random points",
                _middle(maxima["distance"], ".2f"),
            ),
            Row(
                f"{what}: angle between two maxima, degrees",
                "close to 90",
                _middle(maxima["angle"], ".1f"),
                f"between random points {_middle(random['angle'], '.1f')}",
            ),
            *_segment_claims(what, own["segments"]),
            *_gradient_claims(what, own["points"]),
        ]
    return rows


def _segment_claims(what: str, segments: pl.DataFrame) -> list[Row]:
    """How the loss goes between two maxima: against its ends, and against random points."""
    facts = _profiles(segments).filter(pl.col("between") == MAXIMA)
    return [
        Row(
            f"{what}: loss half-way between two maxima, over that at the ends",
            "lower by a constant factor",
            _middle(facts["middle"], ".2f"),
        ),
        Row(
            f"{what}: segments along which the loss is nowhere above its ends",
            "highest at the ends",
            f"{facts['highest_at_ends'].to_numpy().mean():.1%}",
            f"{len(facts)} segments",
        ),
        Row(
            f"{what}: points between two maxima that are below the chord of their ends",
            "convex along the segment",
            f"{facts['below_chord'].to_numpy().mean():.1%}",
        ),
        Row(
            f"{what}: loss half-way between two maxima, over that of a random point",
            "still well above a random point",
            _middle(facts["middle"] / facts["random"], ".3g"),
        ),
    ]


def _profiles(segments: pl.DataFrame) -> pl.DataFrame:
    """For each segment: the mean loss at its two ends, and relative to that the loss half-way and of random points.

    `random` is the median over the random points of the image; `below_chord` the share of the points between the ends
    at which the loss is at most what is linear between them.
    """
    loss, place = pl.col("loss"), pl.col("place")
    first, last = loss.sort_by("place").first(), loss.sort_by("place").last()
    ends = (first + last) / 2
    facts = segments.group_by("image", "between", "segment", maintain_order=True).agg(
        ends=ends,
        middle=loss.filter((place - 0.5).abs() < 1e-6).first() / ends,
        highest_at_ends=loss.max() <= pl.max_horizontal(first, last),
        below_chord=(loss <= first + place * (last - first)).filter(place.is_between(0, 1, closed="none")).mean(),
    )
    random = segments.filter((pl.col("between") == RANDOM) & pl.col("place").is_in([0.0, 1.0]))
    medians = random.group_by("image").agg(random_loss=pl.col("loss").median())
    return facts.join(medians, on="image").with_columns(random=pl.col("random_loss") / pl.col("ends"))


def _gradient_claims(what: str, points: pl.DataFrame) -> list[Row]:
    """What the gradient at the image says of where the maxima are."""
    whole = points.filter(pl.col("share_of_eps") == 1)
    cosines = points.group_by("share_of_eps").agg(pl.col("cosine").mean()).sort("share_of_eps")
    return [
        Row(
            f"{what}: maxima with a negative inner product with the gradient at the image",
            "some",
            f"{(whole['inner_product'].to_numpy() < 0).mean():.1%}",
            f"{len(whole)} maxima",
        ),
        Row(
            f"{what}: mean cosine with the gradient at the image, at {_shares(cosines)} of eps",
            "falls as eps grows",
            ", ".join(f"{cosine:.3f}" for cosine in cosines["cosine"]),
        ),
    ]


def _shares(cosines: pl.DataFrame) -> str:
    return ", ".join(f"{share:g}" for share in cosines["share_of_eps"])


def _middle(values: pl.Series, form: str) -> str:
    low, median, high = np.quantile(values.to_numpy(), (0.05, 0.5, 0.95))
    return f"{median:{form}} ({low:{form}} to {high:{form}})"


def figure(pair: Pair, frames: Frames, run: Run, expected: float) -> Figure:
    """Distances, angles, and for each network the loss along the segments, relative to that at their ends."""

    def onto(figure: Figure) -> None:
        panels = figure.subplots(2, 2)
        distance, angle = panels[0]
        _histogram(distance, pair, frames["pairs"], "distance")
        distance.axvline(expected, ymax=0.72, color=figures.INK, linestyle=":", label="random points, closed form")
        distance.set_xlabel("l2 distance between two of them")
        distance.set_ylabel("share of all pairs")
        figures.legend_above(distance, columns=2)
        _histogram(angle, pair, frames["pairs"], "angle")
        angle.set_xlabel("angle between their changes, degrees")
        for axes, network in zip(panels[1], pair.engines, strict=True):
            _segments(axes, frames["segments"].filter(pl.col("network") == network), COLOURS[network])
            axes.set_title(f"between maxima, {network}")
            axes.set_xlabel("place on the segment")
        panels[1][0].set_ylabel("loss, of that at the ends")

    n_maxima = frames["points"].filter(pl.col("share_of_eps") == 1)["start"].n_unique()
    n_segments = frames["segments"]["segment"].n_unique()
    return figures.draw(
        onto,
        width=9,
        height=6.6,
        title=f"Maxima of the loss around an image, {pair.dataset.title}, {pair.threat}",
        footer=figures.footer(
            run,
            f"n = {len(pair.index)} test images that both networks get right, {n_maxima} maxima and {n_segments} "
            "segments for each image and network",
            pair.networks.values(),
        ),
    )


def _histogram(axes: Axes, pair: Pair, pairs: pl.DataFrame, column: str) -> None:
    kinds = {network: (pl.col("between") == MAXIMA) & (pl.col("network") == network) for network in pair.engines}
    # The random points are those of the image, the same for both networks.
    kinds[RANDOM] = (pl.col("between") == RANDOM) & (pl.col("network") == next(iter(pair.engines)))
    values = pairs[column].to_numpy()
    bins = np.linspace(values.min(), values.max(), N_BINS + 1).tolist()
    for name, chosen in kinds.items():
        own = pairs.filter(chosen)[column].to_numpy()
        colour = COLOURS.get(name, figures.MUTED)
        weights = np.full(len(own), 1 / len(own))
        label = name if name == RANDOM else f"{MAXIMA}, {name}"
        axes.hist(own, bins=bins, weights=weights, color=colour, alpha=0.6, label=label)


def _segments(axes: Axes, segments: pl.DataFrame, colour: str) -> None:
    """Every segment as a thin line, their median as a thick one, and that between random points for comparison."""
    facts = _profiles(segments)
    relative = segments.join(facts.select("image", "between", "segment", "ends"), on=["image", "between", "segment"])
    maxima = relative.filter(pl.col("between") == MAXIMA)
    place = np.unique(segments["place"].to_numpy())
    lines = (maxima["loss"] / maxima["ends"]).to_numpy().reshape(-1, len(place))
    axes.plot(place, lines.T, color=colour, linewidth=0.5, alpha=0.15)
    axes.plot(place, np.median(lines, axis=0), color=colour, linewidth=2.2, label="median")
    level = np.median(facts.filter(pl.col("between") == MAXIMA)["random"].to_numpy())
    axes.axhline(float(level), color=figures.INK, linestyle="--", linewidth=1.2, label="random point of the ball")
    # Below 0, so that a level near it is seen.
    axes.set_ylim(bottom=-0.04)
    figures.legend_above(axes, columns=2)
