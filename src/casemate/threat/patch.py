"""A rectangle of the adversary's choice, anywhere in the image."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from casemate import rng
from casemate.errors import CasemateError
from casemate.threat.l0 import changed, gained, room_for_growth
from casemate.threat.norms import Distances, Gradients, Images


@dataclass(frozen=True)
class Patch:
    """All pixels of one rectangle of `height` rows and `width` columns take any values in [0, 1]; the rest stays.

    Its distances are in patches, 1 where all changes fit into the rectangle exactly, so that `eps` is 1; there is no
    slack. An image smaller than the rectangle is the adversary's altogether.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if not all(isinstance(side, int) and side >= 1 for side in (self.height, self.width)):
            raise CasemateError(f"a patch has whole numbers of rows and columns, not {self.height!r} by {self.width!r}")

    def __str__(self) -> str:
        return f"patch:{self.height}x{self.width}"

    @property
    def eps(self) -> float:
        return 1.0

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """The row and the column at which the rectangle may begin in an image of that size, from the middle outwards.

        What is in the middle matters most as a rule, and the first place that is not proved ends a certification.
        """
        rows, columns = max(height - self.height, 0) + 1, max(width - self.width, 0) + 1
        places = [(row, column) for row in range(rows) for column in range(columns)]
        return sorted(places, key=lambda place: (2 * place[0] - rows + 1) ** 2 + (2 * place[1] - columns + 1) ** 2)

    def project(self, x_adv: Images, x: Images) -> Images:
        """Exact: the rectangle that brings the image nearest to `x_adv` moves there as far as the box lets it."""
        nearest = x_adv.clamp(0, 1)
        return torch.where(self._best(gained(nearest, x_adv, x)), nearest, x)

    def sample(self, x: Images, keys: rng.Keys) -> Images:
        """A rectangle drawn at random, with values drawn at random."""
        rows, columns = (max(whole - side, 0) + 1 for whole, side in zip(x.shape[2:], self._sides, strict=True))
        place = (rng.uniform(rng.fold(keys, "place"), (1,)).squeeze(1) * (rows * columns)).long()
        inside = self._at(place.clamp(max=rows * columns - 1), x.shape[2], x.shape[3])
        return torch.where(inside, rng.uniform(rng.fold(keys, "values"), x.shape[1:]), x)

    def ascent(self, gradient: Gradients, x_adv: Images) -> Images:
        """The sign of the gradient in the one rectangle where the box leaves room for the largest growth."""
        return gradient.sign().to(x_adv.dtype) * self._best(room_for_growth(gradient, x_adv))

    def measure(self, x_adv: Images, x: Images) -> Distances:
        differs = changed(x_adv, x)
        rows, columns = _extent(differs.any(dim=2)), _extent(differs.any(dim=1))
        return torch.maximum(rows / self.height, columns / self.width)

    def contains(self, x_adv: Images, x: Images) -> Bool[Tensor, "batch"]:
        return (self.measure(x_adv, x) <= 1) & ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(dim=1)

    @property
    def _sides(self) -> tuple[int, int]:
        return self.height, self.width

    def _best(self, score: Tensor) -> Bool[Tensor, "batch 1 height width"]:
        """The rectangle with the largest sum of scores [batch, height, width]."""
        height, width = score.shape[1:]
        sums = F.avg_pool2d(score[:, None], (min(self.height, height), min(self.width, width)), stride=1)
        return self._at(sums.flatten(1).argmax(dim=1), height, width)

    def _at(self, place: Tensor, height: int, width: int) -> Bool[Tensor, "batch 1 height width"]:
        """The rectangle whose corner is number `place` [batch], counted row by row."""
        n_columns = max(width - self.width, 0) + 1
        row, column = (place // n_columns)[:, None], (place % n_columns)[:, None]
        rows, columns = (torch.arange(side, device=place.device) for side in (height, width))
        across = (rows >= row) & (rows < row + self.height)
        along = (columns >= column) & (columns < column + self.width)
        return (across[:, :, None] & along[:, None, :])[:, None]


def _extent(any_: Bool[Tensor, "batch line"]) -> Distances:
    """From the first line with a change to the last, both counted; 0 without changes."""
    n = any_.shape[1]
    numbers = torch.arange(n, device=any_.device).expand_as(any_)
    first = torch.where(any_, numbers, n).amin(dim=1)
    last = torch.where(any_, numbers, -1).amax(dim=1)
    return (last - first + 1).clamp(min=0).double()
