"""The few kinds of operations that every classifier is lowered to, each free of any abstract domain.

A domain has one rule for a kind. All layers that are affine are one kind: what a domain needs of one is the product
with its matrix A, with |A| and with A transposed, and its offset b.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Values = Float[Tensor, "batch *shape"]
Function = Callable[[Tensor], Tensor]


class Operation:
    """What one node of a graph does; `shape` and `in_shape` in the operations below leave the batch out."""


class Affine(Operation):
    """x to A x + b. `terms` is the number of products and additions behind one entry of the result."""

    terms: int

    def linear(self, x: Values) -> Values:
        """A x."""
        raise NotImplementedError

    def shifted(self, x: Values) -> Values:
        """A x + b."""
        result = self.linear(x)
        return result if self.offset is None else result + self.offset

    def absolute(self, x: Values) -> Values:
        """|A| x."""
        raise NotImplementedError

    def transposed(self, v: Values) -> Values:
        """A^T v."""
        raise NotImplementedError

    @property
    def offset(self) -> Tensor | None:
        """b, of a shape that broadcasts to that of the result; None for zero."""
        return None

    @property
    def magnitude(self) -> Tensor | None:
        """At least the sum of the magnitudes that the classifier adds up to b."""
        return None if self.offset is None else self.offset.abs()


@dataclass(frozen=True, eq=False)
class Linear(Affine):
    """On the last axis; weight [out, in], bias [out]."""

    weight: Tensor
    bias: Tensor | None

    @property
    def terms(self) -> int:  # type: ignore[override]
        return self.weight.shape[1]

    def linear(self, x: Values) -> Values:
        return x @ self.weight.T

    def shifted(self, x: Values) -> Values:
        return F.linear(x, self.weight, self.bias)

    def absolute(self, x: Values) -> Values:
        return x @ self.weight.abs().T

    def transposed(self, v: Values) -> Values:
        return v @ self.weight

    @property
    def offset(self) -> Tensor | None:
        return self.bias


@dataclass(frozen=True, eq=False)
class Conv2d(Affine):
    """As PyTorch's; weight [out, in / groups, height, width], images of `in_shape` [in, height, width]."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    in_shape: tuple[int, ...]

    @property
    def terms(self) -> int:  # type: ignore[override]
        return self.weight[0].numel()

    def linear(self, x: Values) -> Values:
        return self._convolved(x, self.weight)

    def shifted(self, x: Values) -> Values:
        return self._convolved(x, self.weight, self.bias)

    def absolute(self, x: Values) -> Values:
        return self._convolved(x, self.weight.abs())

    def transposed(self, v: Values) -> Values:
        # A stride can leave rows at the end that no window reaches; the transposed one is told of them.
        missing = [
            size + 2 * pad - dilation * (kernel - 1) - 1 - (out - 1) * stride
            for size, pad, dilation, kernel, out, stride in zip(
                self.in_shape[1:], self.padding, self.dilation, self.weight.shape[2:], v.shape[2:], self.stride,
                strict=True,
            )
        ]  # fmt: skip
        return F.conv_transpose2d(v, self.weight, None, self.stride, self.padding, missing, self.groups, self.dilation)

    @property
    def offset(self) -> Tensor | None:
        return None if self.bias is None else self.bias.view(-1, 1, 1)

    def _convolved(self, x: Values, weight: Tensor, bias: Tensor | None = None) -> Values:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """factor x + shift for each entry: constants that broadcast, batch normalisation, a mean and a deviation.

    `factor` and `shift` have as many axes as one image. `shift_magnitude` is what the shift is the difference of.
    """

    factor: Tensor
    shift: Tensor | None
    shift_magnitude: Tensor | None = None
    # A division, a root and two products may stand behind the factor.
    terms: int = 4

    def linear(self, x: Values) -> Values:
        return x * self.factor

    def absolute(self, x: Values) -> Values:
        return x * self.factor.abs()

    def transposed(self, v: Values) -> Values:
        return v * self.factor

    @property
    def offset(self) -> Tensor | None:
        return self.shift

    @property
    def magnitude(self) -> Tensor | None:
        return super().magnitude if self.shift_magnitude is None else self.shift_magnitude


@dataclass(frozen=True, eq=False)
class Positive(Affine):
    """A linear function without negative weights: an average, a padding, a choice or another order of entries.

    `function` is applied to batches and must not add a constant; that is `constant`. The transposed is its gradient.
    """

    function: Function
    in_shape: tuple[int, ...]
    terms: int
    constant: Tensor | None = None

    def linear(self, x: Values) -> Values:
        return self.function(x)

    def absolute(self, x: Values) -> Values:
        return self.function(x)

    def transposed(self, v: Values) -> Values:
        zero = torch.zeros(len(v), *self.in_shape, dtype=v.dtype, device=v.device, requires_grad=True)
        with torch.enable_grad():
            (result,) = torch.autograd.grad(self.function(zero), zero, v, create_graph=v.requires_grad)
        return result

    @property
    def offset(self) -> Tensor | None:
        return self.constant


@dataclass(frozen=True, eq=False)
class Monotone(Operation):
    """A function that grows with each of its inputs, so that its values at the ends of a box are its range there.

    `roundings` is what its computation may be off by, in units of rounding of its own value and of 1.
    """

    name: str
    function: Function
    roundings: int = 0


@dataclass(frozen=True, eq=False)
class Valley(Operation):
    """A function of each entry that falls up to `bottom` and grows from there; `roundings` as those of `Monotone`."""

    name: str
    function: Function
    bottom: float
    roundings: int


@dataclass(frozen=True, eq=False)
class LeakyReLU(Monotone):
    """max(x, slope x) with 0 <= slope <= 1; the slope of a ReLU is 0."""

    slope: float = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class MaxPool2d(Monotone):
    """The largest entry of each window; `windows` lists the entries of each, [batch, channel, window, positions]."""

    windows: Function = field(kw_only=True)


@dataclass(frozen=True)
class Add(Operation):
    """The sum of two results, the second one times `sign`."""

    sign: int


@dataclass(frozen=True, eq=False)
class Concatenate(Operation):
    """Results joined along one axis, counted with the batch, or `stacked` along a new one.

    `constants` says of each part what it is: None for the next result, else the same for all images, without the batch.
    """

    axis: int
    constants: tuple[Tensor | None, ...]
    stacked: bool = False

    def join(self, parts: Sequence[Values], *, zeros: bool = False) -> Values:
        """The parts with the constants among them, or with `zeros` in the place of these."""
        rest, every = iter(parts), []
        for constant in self.constants:
            if constant is None:
                every.append(next(rest))
            else:
                value = torch.zeros_like(constant) if zeros else constant
                every.append(value.to(parts[0]).expand(len(parts[0]), *constant.shape))
        return torch.stack(every, self.axis) if self.stacked else torch.cat(every, self.axis)

    def sizes(self, shapes: Sequence[tuple[int, ...]]) -> list[int]:
        """How long each part is along the axis, given the shapes of the results."""
        if self.stacked:
            return [1] * len(self.constants)
        rest = iter(shapes)
        return [(next(rest) if value is None else tuple(value.shape))[self.axis - 1] for value in self.constants]


@dataclass(frozen=True)
class Multiply(Operation):
    """The product of two results, entry by entry."""
