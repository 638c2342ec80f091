"""Some broken and some unresolved images to look at, chosen by a rule and not by eye."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from casemate import threat as threats
from casemate.report import pictures, words
from casemate.report.confusion import class_name
from casemate.report.pictures import Picture

N_BROKEN = 12
N_UNRESOLVED = 6


@dataclass(frozen=True)
class BrokenCard:
    """One broken image; the addresses of image and difference are None where the data set could not be opened."""

    index: int
    attack: str
    label: str
    confidence: str
    prediction: str
    adversarial_confidence: str
    distance: str
    image: str | None
    adversarial: str
    difference: str | None


@dataclass(frozen=True)
class StandingCard:
    """One unresolved image."""

    index: int
    label: str
    confidence: str
    margin: str
    image: str | None


@dataclass(frozen=True)
class Gallery:
    """`full` is the change shown in full colour: the largest one shown. The magnification is 1 / `full`."""

    broken: tuple[BrokenCard, ...]
    unresolved: tuple[StandingCard, ...]
    full: float
    coarse: bool

    @property
    def magnification(self) -> str:
        return words.decimal(1 / self.full, 1)

    @property
    def colour_scale(self) -> str:
        """The diverging colours from -`full` to +`full` as one row of pixels."""
        return pictures.difference_uri(np.linspace(-1, 1, 101, dtype=np.float32)[None, None], 1)


def choose_broken(verdicts: pl.DataFrame, stages: Sequence[str], limit: int = N_BROKEN) -> list[int]:
    """The stages take turns in the order they ran; each gives the lowest index it broke that is not yet chosen."""
    broken = verdicts.filter(pl.col("verdict") == "broken").sort("index")
    queues = [broken.filter(pl.col("attack") == name)["index"].to_list() for name in stages]
    turns = (queue[turn] for turn in range(limit) for queue in queues if turn < len(queue))
    return sorted(index for index, _ in zip(turns, range(limit), strict=False))


def nearest_unresolved(verdicts: pl.DataFrame, limit: int = N_UNRESOLVED) -> pl.DataFrame:
    """The rows of those with the smallest margin, the nearest to being broken first; of equal ones the lower index."""
    return verdicts.filter(pl.col("verdict") == "unresolved").sort("margin", "index").head(limit)


def gallery(
    verdicts: pl.DataFrame,
    manifest: Mapping[str, Any],
    evidence: Mapping[int, Picture],
    originals: Mapping[int, Picture],
) -> Gallery:
    """The cards of the images in `evidence` and of the hardest unresolved ones.

    `originals` are the clean images by index; cards of images that it lacks show what there is without them.
    """
    rows = {row["index"]: row for row in verdicts.iter_rows(named=True) if row["index"] in evidence}
    deltas = {index: evidence[index] - originals[index] for index in evidence if index in originals}
    full = max((float(np.abs(delta).max()) for delta in deltas.values()), default=0.0)
    # Nothing to magnify: evidence equal to the original, or none at all.
    full = full or threats.parse_any(manifest["threat"]).eps
    unresolved = nearest_unresolved(verdicts)
    classes = manifest["data"]["classes"]
    shown = [*evidence.values(), *originals.values()]
    return Gallery(
        broken=tuple(
            _broken_card(rows[index], classes, evidence[index], originals.get(index), deltas.get(index), full)
            for index in sorted(evidence)
        ),
        unresolved=tuple(
            _standing_card(row, classes, originals.get(row["index"])) for row in unresolved.iter_rows(named=True)
        ),
        full=full,
        coarse=bool(shown) and pictures.is_coarse(shown[0]),
    )


def _broken_card(
    row: Mapping[str, Any],
    classes: Sequence[str],
    adversarial: Picture,
    original: Picture | None,
    delta: Picture | None,
    full: float,
) -> BrokenCard:
    return BrokenCard(
        index=row["index"],
        attack=row["attack"],
        label=class_name(classes, row["label"]),
        confidence=words.percent(row["confidence"]),
        prediction=class_name(classes, row["adversarial_prediction"]),
        adversarial_confidence=words.percent(row["adversarial_confidence"]),
        distance=f"{row['distance']:.3g}",
        image=None if original is None else pictures.image_uri(original),
        adversarial=pictures.image_uri(adversarial),
        difference=None if delta is None else pictures.difference_uri(delta, full),
    )


def _standing_card(row: Mapping[str, Any], classes: Sequence[str], original: Picture | None) -> StandingCard:
    return StandingCard(
        index=row["index"],
        label=class_name(classes, row["label"]),
        confidence=words.percent(row["confidence"]),
        margin=words.decimal(row["margin"], 2),
        image=None if original is None else pictures.image_uri(original),
    )
