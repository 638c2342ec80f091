"""What a classifier is: any `nn.Module` from images in [0, 1] to logits, with its normalisation inside.

Images are float32 [batch, channel, height, width], labels int64 [batch], logits floating point [batch, classes] before
any softmax. The checks below turn what breaks this contract into one sentence that names the first offending image.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from casemate.errors import CasemateError

Images = Float[Tensor, "batch channel height width"]

# Softmax rows in float32 sum to 1 within a few 1e-7; the room is for sums over 1,000 classes and for rounded outputs.
_SUM_SLACK = 1e-4


class Normalise(nn.Module):
    """(x - mean) / std for each channel; the first layer of a classifier, so that eps stays in pixel units.

    `mean` and `std` hold one value per channel, in the units of images in [0, 1]. They are saved with the weights.
    Raises `CasemateError` where their lengths differ or a std is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not len(mean) == len(std) > 0:
            raise CasemateError(f"mean and std need one value per channel each, got {len(mean)} and {len(std)} values")
        if not all(value > 0 for value in std):
            raise CasemateError(f"every std must be positive, got {list(std)}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Images) -> Images:
        return (x - self.mean) / self.std


class PerImageStandardise(nn.Module):
    """(x - m) / max(s, 1/sqrt(n)) with the mean m and population standard deviation s of all n values of one image.

    As in the CIFAR-10 challenge of Madry et al. (2018), where values run from 0 to 255: the floor 1/sqrt(n) is in those
    units, so on images in [0, 1] it is 1/(255 sqrt(n)). The gradient flows through m and s and stays finite on images
    of one colour.
    """

    def forward(self, x: Images) -> Images:
        n_values = x.shape[1] * x.shape[2] * x.shape[3]
        centred = x - x.mean(dim=(1, 2, 3), keepdim=True)
        # The floor is put under the variance: the root of a variance of 0 would have an infinite gradient.
        variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
        return centred / variance.clamp(min=1 / (255**2 * n_values)).sqrt()


def check_logits(logits: object, n: int, *, what: str) -> None:
    """Refuse an answer of `what` (such as "the model") to `n` images that is not finite logits [n, classes >= 2].

    Raises `CasemateError` for another type or shape, for NaN or infinite values (naming the first image) and for
    probabilities: at least two rows, none with a negative value, each summing to 1 within 1e-4. Attacks need the values
    before the softmax, whose gradient does not vanish where the model is sure.
    """
    if not isinstance(logits, Tensor):
        raise CasemateError(f"{what} returned a {type(logits).__name__}; it must return one tensor of logits")
    if logits.ndim != 2 or logits.shape[0] != n or logits.shape[1] < 2:
        raise CasemateError(
            f"{what} returned shape {list(logits.shape)} for {n} images; "
            f"it must return logits [{n}, classes] with at least 2 classes"
        )
    if not logits.is_floating_point():
        raise CasemateError(f"{what} returned {_dtype(logits)} values; it must return floating-point logits")
    bad = _first(~logits.isfinite().all(dim=1))
    if bad is not None:
        values = "NaN" if logits[bad].isnan().any() else "infinite values"
        raise CasemateError(f"{what} returned {values} among the logits of image {bad}; it must return finite logits")
    if n >= 2 and bool((logits >= 0).all()) and bool(((logits.sum(dim=1) - 1).abs() <= _SUM_SLACK).all()):
        raise CasemateError(f"{what} returned probabilities; return the values before the softmax (logits) instead")


def check_batch(x: object, y: object, n_classes: int | None = None) -> None:
    """Refuse a batch that is not float32 images [N, C, H, W] in [0, 1] with int64 labels [N].

    Raises `CasemateError` naming the first image that holds NaN or a value outside [0, 1], or whose label is negative
    or, where `n_classes` is given, not below it.
    """
    if not isinstance(x, Tensor) or x.dtype != torch.float32 or x.ndim != 4:
        raise CasemateError(f"images must be float32 [N, channel, height, width] in [0, 1], got {_kind(x)}")
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise CasemateError(f"labels must be int64 [{len(x)}], one for each image, got {_kind(y)}")
    bad = _first(x.isnan().flatten(1).any(dim=1))
    if bad is not None:
        raise CasemateError(f"image {bad} holds NaN; every value must be in [0, 1]")
    bad = _first(((x < 0) | (x > 1)).flatten(1).any(dim=1))
    if bad is not None:
        low, high = float(x[bad].min()), float(x[bad].max())
        raise CasemateError(f"image {bad} holds values from {low:g} to {high:g}; scale images to [0, 1]")
    wrong = y < 0 if n_classes is None else (y < 0) | (y >= n_classes)
    bad = _first(wrong)
    if bad is not None:
        expected = "0 or more" if n_classes is None else f"0 to {n_classes - 1}"
        raise CasemateError(f"image {bad} has label {int(y[bad])}; labels must be {expected}")


def _first(mask: Tensor) -> int | None:
    found = mask.nonzero()
    return int(found[0]) if len(found) else None


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _kind(value: object) -> str:
    return f"{_dtype(value)} {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
