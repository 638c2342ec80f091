"""What planted defences are made of: layers that spoil a gradient, or draw, and declare neither."""

from typing import Any

import torch
from torch import Tensor, nn

from casemate import rng
from casemate.losses import cross_entropy


class Undeclared(nn.Module):
    """The answer of a layer of `casemate.defences` without what it declares; it draws from torch's global generator."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        # A bound method is no submodule: whoever goes through the modules does not find the layer.
        self.answer = layer.forward

    def forward(self, x: Tensor) -> Tensor:
        with rng.drawing_from(None):
            return self.answer(x)


class Rounded(nn.Module):
    def __init__(self, n_levels: int) -> None:
        super().__init__()
        self.top = n_levels - 1

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.top).round() / self.top


class Decoded(nn.Module):
    """Thermometer planes back to images: the mean of the switches of a channel."""

    def __init__(self, n_levels: int) -> None:
        super().__init__()
        self.n_levels = n_levels

    def forward(self, planes: Tensor) -> Tensor:
        return planes.unflatten(1, (-1, self.n_levels)).mean(dim=2)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return self.factor * logits


class BackwardTimes(nn.Module):
    """The identity forwards; backwards the gradient times `factor`."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return _TimesGradient.apply(x, self.factor)


class _TimesGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradients[0], None


class GaussianNoise(nn.Module):
    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sigma * torch.randn_like(x)


class Mirrored(nn.Module):
    def __init__(self, n_cells: int) -> None:
        super().__init__()
        self.n_cells = n_cells

    def forward(self, x: Tensor) -> Tensor:
        cell = (x * self.n_cells).floor()
        channel, row, column = (torch.arange(size, device=x.device) for size in x.shape[1:])
        # Neighbours alternate: most pixels of some data sets are exactly 0, and all those would be of one kind.
        mirrored = (cell.long() + channel.view(-1, 1, 1) + row.view(-1, 1) + column) % 2 == 1
        # A value on the edge of its cell is mirrored in itself, so that no two values become one.
        centre = torch.where(x * self.n_cells == cell, x, (cell + 0.5) / self.n_cells).detach()
        return torch.where(mirrored, 2 * centre - x, x)


class Purified(nn.Module):
    def __init__(self, classifier: nn.Module, n_steps: int, step_size: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.n_steps, self.step_size = n_steps, step_size

    def forward(self, x: Tensor) -> Tensor:
        # Whoever calls may have switched gradients off, in either of the two ways there are.
        with torch.inference_mode(False), torch.enable_grad():
            image = x.detach().clone()
            first = self.classifier(image).detach()
            taken_for = first.argmax(dim=1)
            for _ in range(self.n_steps):
                image.requires_grad_(True)
                loss = cross_entropy(self.classifier(image), taken_for).sum()
                (gradient,) = torch.autograd.grad(loss, image)
                image = (image - self.step_size * gradient.sign()).clamp(0, 1).detach()
            last = self.classifier(image).detach()
        return torch.where((last.argmax(dim=1) == taken_for)[:, None], last, first)
