"""Which images make up each batch, and their augmentation: functions of (seed, epoch, step) alone.

Nothing depends on a generator's state, so a resumed run and a run on several processes see the same batches.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from casemate import rng
from casemate.data import Dataset
from casemate.errors import CasemateError
from casemate.losses import Labels
from casemate.threat import Images
from casemate.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Batch:
    """Images [N, C, H, W], labels [N] and the key [N] of each image, which seeds its randomness."""

    x: Images
    y: Labels
    keys: rng.Keys


class Batches:
    """The training images of a recipe on one device: the batches of one process of `world`, and the images held out.

    Raises `CasemateError` for a data set that is too small for one batch.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, device: torch.device, rank: int = 0, world: int = 1) -> None:
        if recipe.hold_out + recipe.batch_size > len(dataset):
            raise CasemateError(
                f"{recipe.data} has {len(dataset)} training images: too few to hold out {recipe.hold_out} and fill a "
                f"batch of {recipe.batch_size}"
            )
        self.recipe, self.rank, self.world = recipe, rank, world
        self.images, self.labels = dataset.images.to(device), dataset.labels.to(device)
        self.index, held = hold_out(len(dataset), recipe.hold_out, recipe.seed)
        self.held = self._gathered(held[: recipe.check.n], "check")
        self.per_epoch = len(self.index) // recipe.batch_size
        self.total = max(1, round(self.per_epoch * recipe.epochs))

    def __call__(self, number: int) -> Batch:
        """This process's share of the batch of optimiser step `number`, augmented."""
        place = batch_index(len(self.index), self.recipe.batch_size, number, self.recipe.seed)
        batch = self._gathered(self.index[place][self.rank :: self.world], "train", number)
        return replace(batch, x=augmented(batch.x, batch.keys, self.recipe.augment))

    def _gathered(self, index: Int64[Tensor, "batch"], *labels: str | int) -> Batch:
        keys = rng.fold(rng.image_keys(self.recipe.seed, index), *labels).to(self.images.device)
        at = index.to(self.images.device)
        return Batch(self.images[at], self.labels[at], keys)


def batch_index(n: int, batch_size: int, number: int, seed: int) -> Int64[Tensor, "batch"]:
    """The images of optimiser step `number`: each epoch is one permutation of all n, cut into full batches."""
    per_epoch = n // batch_size
    epoch, place = divmod(number, per_epoch)
    order = _order(n, seed, epoch)
    return order[place * batch_size : (place + 1) * batch_size]


def hold_out(n: int, count: int, seed: int) -> tuple[Int64[Tensor, "train"], Int64[Tensor, "held"]]:
    """Split the indices of the training images: `count` are held back to check robustness, never trained on."""
    order = _order(n, seed, -1)
    return order[count:].sort().values, order[:count].sort().values


def augmented(x: Images, keys: rng.Keys, augment: str) -> Images:
    """`x` as the recipe's entry says: "none", "shift" by up to 2 pixels, or "crop-flip" by up to 4 and mirrored."""
    match augment:
        case "shift":
            return cropped(x, rng.fold(keys, "augment"), pad=2, flip=False)
        case "crop-flip":
            return cropped(x, rng.fold(keys, "augment"), pad=4, flip=True)
        case _:
            return x


def cropped(x: Images, keys: rng.Keys, *, pad: int, flip: bool) -> Images:
    """A random crop of each image padded with `pad` zeros on every side; with `flip`, mirrored with probability 1/2."""
    n, _, height, width = x.shape
    padded = F.pad(x, (pad, pad, pad, pad))
    draws = rng.uniform(keys, (3,))
    top = (draws[:, 0] * (2 * pad + 1)).long()
    left = (draws[:, 1] * (2 * pad + 1)).long()
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = left[:, None] + torch.arange(width, device=x.device)
    if flip:
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    batch = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


# Kept for the batches of one epoch: hashing and sorting 60,000 keys costs a fifth of a natural step of a small network.
@lru_cache(maxsize=1)
def _order(n: int, seed: int, epoch: int) -> Int64[Tensor, "n"]:
    keys = rng.fold(rng.image_keys(seed, torch.arange(n)), "order", epoch)
    return keys.argsort(stable=True)
