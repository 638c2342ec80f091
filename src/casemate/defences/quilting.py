"""Image quilting: an image is sewn together anew from patches of clean images."""

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from casemate import rng
from casemate.classifier import Images
from casemate.errors import CasemateError
from casemate.sizes import at_least

# Distances held in memory at once, 16 MiB of them: with more a processor waits for its memory.
DISTANCES_AT_ONCE = 2**22
# Products of so many bytes, added up and doubled, are whole numbers that float32 holds exactly.
MAX_PATCH_VALUES = 2**24 // (2 * 255**2)


class Quilting(nn.Module):
    """Replaces each patch of an image by one of its nearest neighbours in a bank of patches of clean images.

    Guo et al. 2018 (arXiv:1711.00117), section 4.3, with the settings of Athalye et al. 2018 (arXiv:1802.00420, section
    5.2.2): patches of 5x5 that overlap by 2, each replaced by one of the 10 nearest in l2, drawn at random, and sewn to
    those above and to the left along the seam of least squared difference (Efros and Freeman 2001). Their bank has 10^6
    patches of ImageNet; `patch_bank` takes 10^5 unless told otherwise, for small images. The surrogate is the identity,
    as there.

    `bank` is [patches, C, side, side] in [0, 1], kept as bytes, with the weights. Images [N, C, H, W] in [0, 1] to the
    same, of any size: where the last patches reach over the edge, it is repeated for them. Neighbours are sought for
    the image rounded to bytes, in whole numbers, so that they do not depend on the batch. Cost: the distance of each of
    about HW / 9 patches to the whole bank, more than most networks take. Raises `CasemateError` where the bank holds
    other than square patches or patches of more than 129 values, has fewer than `n_neighbours` (at least 1), or where
    `overlap` is not from 1 to side - 1; and for images of other channels than the bank's.
    """

    bank: Tensor

    def __init__(
        self, bank: Float[Tensor, "patches channel side side"], *, overlap: int = 2, n_neighbours: int = 10
    ) -> None:
        super().__init__()
        at_least(1, overlap=overlap, n_neighbours=n_neighbours)
        if bank.ndim != 4 or bank.shape[2] != bank.shape[3] or bank[:1].numel() > MAX_PATCH_VALUES:
            raise CasemateError(
                f"a bank holds square patches of up to {MAX_PATCH_VALUES} values, [patches, C, side, side], "
                f"not {list(bank.shape)}"
            )
        if len(bank) < n_neighbours:
            raise CasemateError(f"a bank of {len(bank)} patches has no {n_neighbours} neighbours to choose from")
        if overlap >= bank.shape[3]:
            raise CasemateError(f"patches of {bank.shape[3]} pixels overlap by less than that, not by {overlap}")
        self.overlap = overlap
        self.n_neighbours = n_neighbours
        self.stochastic = n_neighbours > 1
        # Bytes take a quarter of the memory, and a copy of the classifier in bfloat16 leaves them alone.
        self.register_buffer("bank", (bank * 255).round().byte())

    def forward(self, x: Images) -> Images:
        _, channels, side, _ = self.bank.shape
        if x.shape[1] != channels:
            raise CasemateError(f"the bank has patches of {channels} channels and the images have {x.shape[1]}")
        height, width = x.shape[2:]
        step = side - self.overlap
        padding = (0, _missing(width, side, step), 0, _missing(height, side, step))
        padded = nn.functional.pad((x * 255).round().float(), padding, mode="replicate")
        patches = padded.unfold(2, side, step).unfold(3, side, step).permute(0, 2, 3, 1, 4, 5)
        nearest = self._nearest(patches.flatten(3).flatten(0, 2))
        if self.stochastic:
            draws = rng.uniform(rng.layer_keys(x, "quilting"), patches.shape[1:3])
            nearest = nearest.gather(1, (draws * self.n_neighbours).long().view(-1, 1))
        blocks = self.bank[nearest[:, 0]].float().view_as(patches)
        return _sewn(blocks, self.overlap)[..., :height, :width].to(x.dtype) / 255

    def surrogate(self, x: Images) -> Images:
        return x

    def extra_repr(self) -> str:
        return f"bank of {list(self.bank.shape)}, overlap={self.overlap}, n_neighbours={self.n_neighbours}"

    def _nearest(self, patches: Float32[Tensor, "some values"]) -> Int64[Tensor, "some neighbours"]:
        """The nearest in the bank to each patch of bytes, the nearest first."""
        bank = self.bank.flatten(1).float()
        squares = bank.square().sum(dim=1)
        nearest = []
        for part in patches.split(max(1, DISTANCES_AT_ONCE // len(bank))):
            # Less the square of the patch itself, which changes no order.
            distances = torch.addmm(squares, part, bank.T, alpha=-2)
            nearest.append(distances.topk(self.n_neighbours, dim=1, largest=False).indices)
        return torch.cat(nearest)


def patch_bank(
    images: Images, n_patches: int = 100_000, *, patch_size: int = 5, seed: int = 0
) -> Float[Tensor, "patches channel side side"]:
    """`n_patches` patches from random places of random images [N, C, H, W], such as the training images.

    Raises `CasemateError` where there are no images, where they are smaller than a patch, or where a number is no whole
    number of at least 1.
    """
    at_least(1, n_patches=n_patches, patch_size=patch_size)
    n, _, height, width = images.shape
    if n == 0 or patch_size > min(height, width):
        raise CasemateError(f"images {list(images.shape)} hold no patch of {patch_size}x{patch_size}")
    keys = rng.fold(rng.image_keys(seed, torch.arange(n_patches, device=images.device)), "patch-bank")
    places = rng.uniform(keys, (3,)) * torch.tensor(
        [n, height - patch_size + 1, width - patch_size + 1], device=images.device
    )
    image, top, left = places.long().unbind(dim=1)
    line = torch.arange(patch_size, device=images.device)
    rows, columns = top[:, None, None] + line[:, None], left[:, None, None] + line
    return images[image[:, None, None], :, rows, columns].movedim(3, 1)


def _missing(length: int, side: int, step: int) -> int:
    """By how much the last of the patches that cover `length` pixels reaches over its end."""
    return side + max(0, -(-(length - side) // step)) * step - length


def _sewn(
    blocks: Float32[Tensor, "batch rows columns channel side side"], overlap: int
) -> Float32[Tensor, "batch channel height width"]:
    """The blocks laid over each other row by row, each from the seams to what lies above it and to its left."""
    n, n_rows, n_columns, channels, side, _ = blocks.shape
    step = side - overlap
    canvas = blocks.new_zeros(n, channels, overlap + n_rows * step, overlap + n_columns * step)
    place = torch.arange(side, device=blocks.device)
    for row in range(n_rows):
        for column in range(n_columns):
            block = blocks[:, row, column]
            there = canvas[:, :, row * step : row * step + side, column * step : column * step + side]
            difference = (block - there).square().sum(dim=1)
            on_top = torch.ones_like(difference, dtype=torch.bool)
            if column:
                on_top &= place >= _seam(difference[:, :, :overlap])[:, :, None]
            if row:
                on_top &= place[:, None] >= _seam(difference[:, :overlap].mT)[:, None, :]
            there.copy_(torch.where(on_top[:, None], block, there))
    return canvas


def _seam(difference: Float32[Tensor, "batch length overlap"]) -> Int64[Tensor, "batch length"]:
    """The path of least total difference along the overlap, one place a line, at most one apart from line to line."""
    rest = difference[:, -1]
    moves = []
    for line in reversed(difference[:, :-1].unbind(dim=1)):
        # The cheapest of the three places that the next line may continue in.
        least, move = nn.functional.pad(rest, (1, 1), value=torch.inf).unfold(1, 3, 1).min(dim=2)
        moves.append(move - 1)
        rest = line + least
    path = [rest.argmin(dim=1, keepdim=True)]
    for move in reversed(moves):
        path.append(path[-1] + move.gather(1, path[-1]))
    return torch.cat(path, dim=1)
