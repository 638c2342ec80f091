"""The score of submissions to a challenge of Madry et al. 2018: what is left of a network's accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from casemate import rng
from casemate.audit.manifest import device_of
from casemate.audit.refusals import answers, refuse_unfit
from casemate.audit.statistics import Bracket, clopper_pearson
from casemate.audit.verdict import BROKEN, MISCLASSIFIED, UNRESOLVED
from casemate.data import Dataset
from casemate.errors import CasemateError
from casemate.gradients import Classifier, engine_for
from casemate.losses import Labels
from casemate.papers.madry2018.challenge import Submission
from casemate.threat import Images

# Three times what guessing among ten classes reaches, which is where an error of order leaves a network.
LEAST_CLEAN_ACCURACY = 0.3
# Below what a network's own card says: the card's images are other ones, and fewer.
CLEAN_SLACK = 0.1


@dataclass(frozen=True, eq=False)
class FileScore:
    """One submission: the predictions for its images, which of them are right, and how far they were moved [N]."""

    path: Path
    predictions: Labels
    right: Bool[Tensor, "batch"]
    inside: Bool[Tensor, "batch"]
    distance: Float64[Tensor, "batch"]

    @property
    def accuracy(self) -> float:
        """As the challenge counts: the share of all images that are classified rightly."""
        return float(self.right.double().mean())

    @property
    def outside(self) -> int:
        """Images that pass by the published tolerance alone, and are outside the threat model as Casemate means it."""
        return int((~self.inside).sum())


@dataclass(frozen=True, eq=False)
class Score:
    """Submissions together; `clean` says for each image whether the network is right without any attack [N]."""

    labels: Labels
    clean: Bool[Tensor, "batch"]
    files: tuple[FileScore, ...]

    @property
    def right(self) -> Bool[Tensor, "batch"]:
        """Right in every file: what one file would leave that takes for each image the one that breaks it."""
        return torch.stack([file.right for file in self.files]).all(dim=0)

    @property
    def accuracy(self) -> float:
        """The score of the challenge: the share of all images that no file breaks."""
        return float(self.right.double().mean())

    @property
    def clean_accuracy(self) -> float:
        return float(self.clean.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95% interval of `accuracy` for the population that the images were drawn from."""
        return clopper_pearson(int(self.right.sum()), len(self.labels))

    @property
    def predictions(self) -> Labels:
        """What `pred.npy` holds: of the first file that breaks the image, and the label where none does."""
        predictions = self.labels.clone()
        for file in reversed(self.files):
            predictions = torch.where(file.right, predictions, file.predictions)
        return predictions

    @property
    def verdicts(self) -> list[str]:
        """Casemate's word for each image: broken only by an image inside the threat model, and only if right before."""
        broken = torch.stack([file.inside & ~file.right for file in self.files]).any(dim=0)
        return [
            MISCLASSIFIED if not right else BROKEN if broke else UNRESOLVED
            for right, broke in zip(self.clean.tolist(), broken.tolist(), strict=True)
        ]

    @property
    def bracket(self) -> Bracket:
        verdicts = self.verdicts
        return Bracket(verdicts.count(MISCLASSIFIED), verdicts.count(BROKEN), 0, verdicts.count(UNRESOLVED))

    def as_json(self) -> dict[str, Any]:
        bracket = self.bracket
        return {
            "n": len(self.labels),
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "clean_accuracy": self.clean_accuracy,
            "attacked_accuracy": bracket.attacked_accuracy,
            "verdicts": {MISCLASSIFIED: bracket.misclassified, BROKEN: bracket.broken, UNRESOLVED: bracket.unresolved},
            "submissions": [
                {
                    "file": str(file.path),
                    "accuracy": file.accuracy,
                    "largest_change": float(file.distance.max()),
                    "outside_by_rounding": file.outside,
                }
                for file in self.files
            ],
        }


def score(
    model: Classifier, data: Dataset, submissions: Sequence[Submission], *, expected_clean: float | None = None
) -> Score:
    """Classify the images of each submission, which `read_submission` checked against `data`, in full precision.

    `expected_clean` is the clean accuracy that the network is known to have. One forward pass over the clean images and
    one over each file. Raises `CasemateError` for a model that cannot be audited, and for one whose clean accuracy is
    more than 0.1 below what was expected, or below 0.3 where nothing is known: then images, labels and logits are
    not in the same order or units, or it is the wrong network, and its score would mean nothing.
    """
    engine = engine_for(model)
    refuse_unfit(engine, Dataset(data.name, data.split, data.images[:64], data.labels[:64], data.classes))
    device = device_of(engine.model)
    keys = rng.image_keys(0, torch.arange(len(data), device=device))

    def predictions(images: Images) -> Labels:
        return answers(engine, images.to(device), keys).argmax(dim=1).cpu()

    clean = predictions(data.images) == data.labels
    _refuse_low_clean_accuracy(float(clean.double().mean()), data, expected_clean)
    scores = []
    for submission in submissions:
        found = predictions(submission.images)
        scores.append(
            FileScore(submission.path, found, found == data.labels, submission.inside, submission.distance),
        )
    return Score(data.labels, clean, tuple(scores))


def _refuse_low_clean_accuracy(found: float, data: Dataset, expected: float | None) -> None:
    least = LEAST_CLEAN_ACCURACY if expected is None else expected - CLEAN_SLACK
    if found < least:
        known = f"at least {least:.0%} is expected" if expected is None else f"its card says {expected:.1%}"
        raise CasemateError(
            f"the model is right on {found:.1%} of the clean images of {data.name}[{data.split}], where {known}: "
            "check that it was trained for these images, that it takes them in [0, 1], and the order of its classes"
        )
