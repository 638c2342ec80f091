"""Does a defence declare what attacks need to know, and keep to it?"""

from typing import Any

import torch
from torch import Tensor, nn

from casemate import rng
from casemate.gradients import Engine
from casemate.losses import margin
from casemate.testing import models
from casemate.testing.conformance import leaving_no_trace, require, running
from casemate.threat import Images


def check_defence(defence: nn.Module, *, image_shape: models.Shape, output_shape: models.Shape | None = None) -> None:
    """Raise `ConformanceError`, one sentence that names the first promise `defence` breaks; else return None.

    A defence is an `nn.Module` from images [N, C, H, W] in [0, 1] to images of the same range, put before a classifier.
    They keep their shape, unless another one, [C, H, W], is named as `output_shape`. It declares `surrogate`, a
    differentiable stand-in for its backward pass or None where its own is one, and `stochastic`, whether its forward
    pass draws random numbers. On random, black and white images [C, H, W] = `image_shape`:

    - the output has the expected shape, keeps the dtype and stays in [0, 1]; an empty batch works;
    - the forward pass changes neither its input nor its own weights, buffers or training mode;
    - a defence that is not stochastic has one answer for an image, whatever the batch;
    - a stochastic one draws from `rng.layer_keys` alone: inside an attack the answer is fixed by the key of the image,
      whatever the batch, leaves the global random state alone, and differs between keys;
    - the surrogate has the shape of the output and is differentiable;
    - before a classifier, the gradient that attacks work with is finite and not zero.
    """
    who = type(defence).__name__
    for fact in ("surrogate", "stochastic"):
        require(hasattr(defence, fact), f"{who} does not declare {fact}")
    require(isinstance(defence.stochastic, bool), f"{who}.stochastic must be True or False, not {defence.stochastic!r}")
    surrogate: Any = defence.surrogate
    require(surrogate is None or callable(surrogate), f"{who}.surrogate must be callable or None, not {surrogate!r}")
    x = models.images(8, image_shape)
    x[0], x[1] = 0, 1
    shape = list(image_shape if output_shape is None else output_shape)
    _check_output(defence, x, shape, who)
    _check_draws(defence, x, who)
    _check_surrogate(defence, x, shape, who)
    _check_gradient(defence, x, shape, who)


def _answer(defence: nn.Module, x: Images, who: str, seed: int = 0, at: Tensor | slice = slice(None)) -> Tensor:
    keys = rng.image_keys(seed, torch.arange(len(x)))[at]
    with running(who), torch.no_grad(), rng.drawing_from(keys):
        return defence(x[at])


def _check_output(defence: nn.Module, x: Images, shape: list[int], who: str) -> None:
    with leaving_no_trace(f"The forward pass of {who}", defence, x=x):
        output = _answer(defence, x, who)
    _require_images(output, x, shape, who)
    _require_images(_answer(defence, x, who, at=slice(0, 0)), x[:0], shape, f"{who}, given an empty batch,")
    require(torch.equal(output, _answer(defence, x, who)), f"{who} gave another answer when called again")
    order = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    shuffled = torch.empty_like(output).index_copy_(0, order, _answer(defence, x, who, at=order))
    alone = torch.cat([_answer(defence, x, who, at=slice(image, image + 1)) for image in range(len(x))])
    for other in (shuffled, alone):
        # A convolution rounds differently in batches of other sizes.
        close = torch.allclose(output, other, rtol=0, atol=1e-5)
        require(close, f"{who} answers for an image according to the batch it is in")


def _require_images(output: object, x: Images, shape: list[int], who: str) -> None:
    if not isinstance(output, Tensor):
        require(False, f"{who} returned a {type(output).__name__}, not a tensor of images")
        return
    require(
        list(output.shape) == [len(x), *shape],
        f"{who} returned shape {list(output.shape)} for images {list(x.shape)}, not {[len(x), *shape]}",
    )
    require(output.dtype == x.dtype, f"{who} returned {output.dtype} for images of {x.dtype}")
    require(bool(((output >= 0) & (output <= 1)).all()), f"{who} returned pixel values outside [0, 1]")


def _check_draws(defence: nn.Module, x: Images, who: str) -> None:
    same = torch.equal(_answer(defence, x, who), _answer(defence, x, who, seed=1))
    if defence.stochastic:
        require(not same, f"{who} is declared stochastic and gave the same answer for other keys")
    else:
        require(same, f"{who} gave another answer for other keys and is not declared stochastic")


def _check_surrogate(defence: nn.Module, x: Images, shape: list[int], who: str) -> None:
    surrogate: Any = defence.surrogate
    if surrogate is None:
        return
    leaf = x.clone().requires_grad_(True)
    with running(f"The surrogate of {who}"), rng.drawing_from(rng.image_keys(0, torch.arange(len(x)))):
        output = surrogate(leaf)
    returned = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    require(
        returned == [len(x), *shape],
        f"The surrogate of {who} returned {returned} for images {list(x.shape)}, not {[len(x), *shape]}",
    )
    require(output.requires_grad, f"The surrogate of {who} is not differentiable")


def _check_gradient(defence: nn.Module, x: Images, shape: list[int], who: str) -> None:
    model = nn.Sequential(defence, models.seeded(lambda: models.Rippled(shape)))
    y = torch.zeros(len(x), dtype=torch.int64)
    keys = rng.image_keys(0, torch.arange(len(x)))
    with running(f"The gradient through {who}"), leaving_no_trace(f"The gradient through {who}", defence, x=x):
        # Not the black and the white image, where a clamp may well have no gradient.
        gradient, _ = Engine(model, precision="float32").gradient(x[2:], y[2:], margin, keys=keys[2:])
    flat = (gradient == 0).flatten(1).all(dim=1)
    require(not bool(flat.any()), f"The gradient through {who} is zero or not finite: declare a surrogate")
