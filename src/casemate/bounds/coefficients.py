"""Coefficients of the entries of one node's result, of which linear bounds are made: all, or a window of each row.

An entry behind a convolution depends on a window of what is before it. As long as that is smaller than the whole, a row
keeps its window alone, which saves most of the work and of the memory.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from casemate.bounds.operations import Affine, Conv2d, Scale

Bounds = Float[Tensor, "batch row"]


@dataclass(frozen=True, eq=False)
class Dense:
    """values [batch, row, *shape of the node]."""

    values: Tensor

    def per_entry(self, entries: Tensor) -> Tensor:
        """Something of each entry of the node, [batch or 1, *shape], in the form that broadcasts to `values`."""
        return entries[:, None]

    def sum(self, values: Tensor, entries: Tensor) -> Bounds:
        """The sum over the node of `values`, of the form of the coefficients, times something of each entry."""
        flat = values.reshape(*values.shape[:2], -1)
        if len(entries) == 1:
            return flat @ entries.flatten()
        return torch.einsum("brn,bn->br", flat, entries.reshape(len(entries), -1))

    def with_values(self, values: Tensor) -> "Dense":
        return Dense(values)

    def before(self, operation: Affine) -> "Dense":
        """Those of the input of an affine operation."""
        values = self.values
        return Dense(operation.transposed(values.flatten(0, 1)).unflatten(0, values.shape[:2]))

    def dense(self) -> "Dense":
        return self


@dataclass(frozen=True, eq=False)
class Windowed:
    """values [batch, row, channel, height, width] of a window of a node of `shape` [channel, height, width].

    `corner` [batch, row, 2] is the row and the column of the window's first entry, which may lie outside of the node;
    coefficients out there are zero.
    """

    values: Tensor
    corner: Int64[Tensor, "batch row 2"]
    shape: tuple[int, ...]

    @cached_property
    def _places(self) -> Int64[Tensor, "batch row height width"]:
        """Where the window's entries are in one channel of the node with a border of zeros around it."""
        height, width = self.values.shape[3:]
        rows = self.corner[:, :, 0, None] + torch.arange(height, device=self.corner.device)
        columns = self.corner[:, :, 1, None] + torch.arange(width, device=self.corner.device)
        # Everything outside is the border, of which one line on each side is enough.
        rows, columns = rows.clamp(-1, self.shape[1]) + 1, columns.clamp(-1, self.shape[2]) + 1
        return rows[:, :, :, None] * (self.shape[2] + 2) + columns[:, :, None, :]

    def per_entry(self, entries: Tensor) -> Tensor:
        """Something of each entry of the node, [batch or 1, *shape], seen through the windows; zero outside."""
        if entries.shape[-2:] == (1, 1):
            return entries[:, None] * self.inside
        flat = F.pad(entries, (1, 1, 1, 1)).flatten(2)
        batch = (
            torch.arange(len(self.values), device=flat.device)
            if len(entries) > 1
            else torch.zeros_like(self.corner[:, 0, 0])
        )
        # The channel goes last, so that an entry of an index copies a row of memory.
        seen = flat.transpose(1, 2)[batch[:, None, None, None], self._places]
        return seen.permute(0, 1, 4, 2, 3)

    @cached_property
    def inside(self) -> Tensor:
        """1 for entries of the node, 0 for those outside of it, [batch, row, 1, height, width]."""
        one = torch.ones(1, 1, *self.shape[1:], dtype=self.values.dtype, device=self.values.device)
        return self.per_entry(one)

    def sum(self, values: Tensor, entries: Tensor) -> Bounds:
        return (values * self.per_entry(entries)).flatten(2).sum(dim=2)

    def with_values(self, values: Tensor) -> "Windowed":
        return Windowed(values, self.corner, self.shape)

    def before(self, operation: Affine) -> "Windowed | Dense":
        if isinstance(operation, Scale):
            return self.with_values(self.values * self.per_entry(operation.factor.expand(self.shape)[None]))
        if not isinstance(operation, Conv2d) or operation.groups > 1:
            return self.dense().before(operation)
        kernel, stride = operation.weight.shape[2:], operation.stride
        size = [
            (length - 1) * step + gap * (width - 1) + 1
            for length, step, gap, width in zip(self.values.shape[3:], stride, operation.dilation, kernel, strict=True)
        ]
        if size[0] * size[1] >= operation.in_shape[1] * operation.in_shape[2]:
            return self.dense().before(operation)
        values = F.conv_transpose2d(
            self.values.flatten(0, 1), operation.weight, None, stride, 0, 0, 1, operation.dilation
        ).unflatten(0, self.values.shape[:2])
        steps = torch.tensor(stride, device=self.corner.device)
        found = Windowed(
            values, self.corner * steps - torch.tensor(operation.padding, device=steps.device), operation.in_shape
        )
        # What padding adds is zero, whatever its coefficient.
        return found.with_values(values * found.inside)

    def dense(self) -> Dense:
        batch, rows, channels = self.values.shape[:3]
        height, width = self.shape[1:]
        flat = self.values.new_zeros(batch, rows, channels, (height + 2) * (width + 2))
        places = self._places.flatten(2)[:, :, None].expand(-1, -1, channels, -1)
        # Entries outside share a place of the border, which is cut off.
        flat.scatter_add_(3, places, self.values.flatten(3))
        return Dense(flat.view(batch, rows, channels, height + 2, width + 2)[..., 1:-1, 1:-1].contiguous())


Coefficients = Dense | Windowed


def units(places: Int64[Tensor, "batch row"], shape: tuple[int, ...], sign: int, like: Tensor) -> Coefficients:
    """Rows that are `sign` at one entry of a node of `shape`, which `places` counts flat, and 0 elsewhere."""
    if len(shape) == 3:
        channel, place = places // (shape[1] * shape[2]), places % (shape[1] * shape[2])
        values = torch.zeros(*places.shape, shape[0], dtype=like.dtype, device=like.device)
        values.scatter_(2, channel[:, :, None], sign)
        corner = torch.stack([place // shape[2], place % shape[2]], dim=2)
        return Windowed(values[..., None, None], corner, shape)
    values = torch.zeros(*places.shape, prod(shape), dtype=like.dtype, device=like.device)
    return Dense(values.scatter_(2, places[:, :, None], sign).unflatten(2, shape))


def together(one: Coefficients, other: Coefficients) -> Coefficients:
    """The sum of two coefficients of one node."""
    return Dense(one.dense().values + other.dense().values)
