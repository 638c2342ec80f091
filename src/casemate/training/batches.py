"""Which images make up each batch, and their augmentation: functions of (seed, epoch, step) alone.

Nothing depends on a generator's state, so a resumed run and a run on several processes see the same batches.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from casemate import rng
from casemate.threat import Images


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


def _order(n: int, seed: int, epoch: int) -> Int64[Tensor, "n"]:
    keys = rng.fold(rng.image_keys(seed, torch.arange(n)), "order", epoch)
    return keys.argsort(stable=True)
