"""One verdict for each image, the facts it rests on, and the tables it is stored in."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from casemate.losses import Labels
from casemate.threat import Images

MISCLASSIFIED = "misclassified"  # wrong without any attack
BROKEN = "broken"  # an adversarial image inside the threat model is stored
CERTIFIED = "certified"  # no image inside the threat model can change the prediction
UNRESOLVED = "unresolved"  # neither: no failure found with this budget
VERDICTS = (MISCLASSIFIED, BROKEN, CERTIFIED, UNRESOLVED)

VERDICT_SCHEMA = pl.Schema(
    {
        "index": pl.Int64(),
        "label": pl.Int64(),
        "verdict": pl.String(),
        "prediction": pl.Int64(),
        "confidence": pl.Float64(),
        "attack": pl.String(),
        "adversarial_prediction": pl.Int64(),
        "adversarial_confidence": pl.Float64(),
        "distance": pl.Float64(),
        "margin": pl.Float64(),
        "evidence_sha256": pl.String(),
        "broken_by": pl.List(pl.String()),
        "certifier": pl.String(),
        "proved_margin": pl.Float64(),
    }
)
EVIDENCE_SCHEMA = pl.Schema({"index": pl.Int64(), "shape": pl.List(pl.Int64()), "image": pl.Binary()})


@dataclass(frozen=True)
class Seconds:
    """Where the time of a block, or of a whole run, went; `attacks` and `proofs` by name."""

    clean: float = 0.0
    attacks: dict[str, float] = field(default_factory=dict)
    attribution: float = 0.0
    proofs: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return self.clean + sum(self.attacks.values()) + self.attribution + sum(self.proofs.values())


@dataclass(frozen=True, eq=False)
class Block:
    """What an audit found out about n images; each tensor has one entry per image, in the order of `index`.

    `broke[i, k]` says that the k-th stage breaks image i. `x_adv`, `distance` and the two adversarial columns belong
    to the first stage that does; where none does they mean nothing. `margin` is the logit of the label minus the best
    other one at the worst point found, which is `x_adv` where the image is broken. `proved_by[i]` is the place in
    `certifiers` of the one that proves image i, and -1 for none; `proved_margin` is what that margin is at least.
    """

    index: Int64[Tensor, "batch"]
    label: Labels
    prediction: Labels
    confidence: Float64[Tensor, "batch"]
    stages: tuple[str, ...]
    broke: Bool[Tensor, "batch stages"]
    x_adv: Images
    adversarial_prediction: Labels
    adversarial_confidence: Float64[Tensor, "batch"]
    distance: Float64[Tensor, "batch"]
    margin: Float64[Tensor, "batch"]
    certifiers: tuple[str, ...]
    proved_by: Int64[Tensor, "batch"]
    proved_margin: Float64[Tensor, "batch"]
    seconds: Seconds

    def verdicts(self) -> pl.DataFrame:
        """One row per image, with `VERDICT_SCHEMA`."""
        return pl.DataFrame([self._row(place) for place in range(len(self.index))], schema=VERDICT_SCHEMA)

    def evidence(self) -> pl.DataFrame:
        """One row per broken image, with `EVIDENCE_SCHEMA`."""
        rows = [
            {"index": int(self.index[place]), "shape": list(self.x_adv.shape[1:]), "image": encode(self.x_adv[place])}
            for place in range(len(self.index))
            if self._verdict(place) == BROKEN
        ]
        return pl.DataFrame(rows, schema=EVIDENCE_SCHEMA)

    def _verdict(self, place: int) -> str:
        if self.prediction[place] != self.label[place]:
            return MISCLASSIFIED
        if self.broke[place].any():
            return BROKEN
        return CERTIFIED if self.proved_by[place] >= 0 else UNRESOLVED

    def _row(self, place: int) -> dict[str, Any]:
        verdict = self._verdict(place)
        row: dict[str, Any] = dict.fromkeys(VERDICT_SCHEMA)
        row |= {
            "index": int(self.index[place]),
            "label": int(self.label[place]),
            "verdict": verdict,
            "prediction": int(self.prediction[place]),
            "confidence": float(self.confidence[place]),
            "margin": float(self.margin[place]),
            "broken_by": [],
        }
        if verdict == CERTIFIED:
            row |= {
                "certifier": self.certifiers[int(self.proved_by[place])],
                "proved_margin": float(self.proved_margin[place]),
            }
        if verdict == BROKEN:
            broken_by = [name for name, broke in zip(self.stages, self.broke[place].tolist(), strict=True) if broke]
            row |= {
                "attack": broken_by[0],
                "adversarial_prediction": int(self.adversarial_prediction[place]),
                "adversarial_confidence": float(self.adversarial_confidence[place]),
                "distance": float(self.distance[place]),
                "evidence_sha256": hashlib.sha256(encode(self.x_adv[place])).hexdigest(),
                "broken_by": broken_by,
            }
        return row


def encode(image: Tensor) -> bytes:
    """The bytes of one float32 image [C, H, W]: little-endian, in C order."""
    return image.detach().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes()


def decode(content: bytes, shape: tuple[int, ...] | list[int]) -> Tensor:
    """The image of which `encode` made these bytes; raises ValueError where the shape does not fit them."""
    return torch.from_numpy(np.frombuffer(content, dtype="<f4").astype(np.float32).reshape(shape))
