"""The MNIST and CIFAR-10 challenges of Madry et al. 2018: submissions in their own format, read, checked and written.

A submission is one `.npy` file with the whole test split in its order, each image moved by at most eps in linf: for
MNIST 10,000 x 784 values in [0, 1] and eps 0.3, for CIFAR-10 10,000 x 32 x 32 x 3 values (channel last) in [0, 255] and
eps 8. Source of the checks: `run_attack.py` in github.com/MadryLab/mnist_challenge and cifar10_challenge; both forgive
1e-4 in those units, and one violation voids the whole file. Here NaN is refused for both data sets (the original lets
it pass for CIFAR-10), and differences are measured in float64, where the original rounds them to the dtype of the file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from casemate import files
from casemate.errors import CasemateError
from casemate.papers.madry2018.leaderboards import (
    CIFAR10_BLACK_BOX,
    CIFAR10_WHITE_BOX,
    MNIST_BLACK_BOX,
    MNIST_WHITE_BOX,
    Track,
)
from casemate.threat import Images, Linf

TOLERANCE = 1e-4  # in the units of the file, on the range and on eps
_CHUNK = 1024

Values = Float64[Tensor, "batch channel height width"]


@dataclass(frozen=True)
class Challenge:
    """What a submission must be. `eps` is in the units of the file, `scale` the value there that is 1 in an image."""

    data: str
    n_images: int
    image: tuple[int, int, int]  # channel, height, width
    flat: bool
    scale: int
    eps: float
    dtypes: str  # kinds, as numpy abbreviates them
    tracks: tuple[Track, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array in the file."""
        channels, height, width = self.image
        one = (height * width * channels,) if self.flat else (height, width, channels)
        return (self.n_images, *one)

    @property
    def threat(self) -> Linf:
        return Linf(self.eps / self.scale)

    def clean(self, x: Images) -> Values:
        """Images [N, C, H, W] in the units of the file: where those are bytes, the bytes that the images came from."""
        values = x.double() * self.scale
        return values if self.scale == 1 else values.round()


MNIST = Challenge("mnist", 10_000, (1, 28, 28), True, 1, 0.3, "f", (MNIST_WHITE_BOX, MNIST_BLACK_BOX))
CIFAR10 = Challenge("cifar10", 10_000, (3, 32, 32), False, 255, 8.0, "fiu", (CIFAR10_WHITE_BOX, CIFAR10_BLACK_BOX))
CHALLENGES = {challenge.data: challenge for challenge in (MNIST, CIFAR10)}


@dataclass(frozen=True, eq=False)
class Submission:
    """A file that passed the published checks.

    `images` are float32 [N, C, H, W] in the units of [0, 1], not clipped to it; `distance` is how far each is moved,
    in the units of the file. `inside` is Casemate's own word, `threat.contains`: an image that the published tolerance
    lets pass and this does not is outside by rounding.
    """

    path: Path
    images: Images
    distance: Float64[Tensor, "batch"]
    inside: Bool[Tensor, "batch"]


def read_submission(challenge: Challenge, path: Path, x: Images) -> Submission:
    """Read the file at `path` and check it as the challenge did; `x` are the clean images [N, C, H, W] in order.

    Nothing is unpickled. Raises `CasemateError` that says why the submission is void: no array of numbers, another
    shape or dtype, or, naming the first such image, NaN, a value out of range, a change beyond eps, or another order.
    """
    _check_clean(challenge, x)
    stored = _opened(challenge, path)
    images = torch.empty(x.shape)
    low, high, distance = (torch.empty(len(x), dtype=torch.float64) for _ in range(3))
    inside = torch.empty(len(x), dtype=torch.bool)
    for part in _parts(len(x)):
        values = _from_file(challenge, stored[part])
        flat = values.flatten(1)
        low[part], high[part] = flat.amin(dim=1), flat.amax(dim=1)
        distance[part] = (values - challenge.clean(x[part])).abs().flatten(1).amax(dim=1)
        images[part] = (values / challenge.scale).float()
        inside[part] = challenge.threat.contains(images[part], x[part])
    in_range = (low >= -TOLERANCE) & (high <= challenge.scale + TOLERANCE)
    # Comparisons with NaN are false.
    void = (~(in_range & (distance <= challenge.eps + TOLERANCE))).nonzero()
    if len(void):
        index = int(void[0])
        reason = _reason(challenge, float(low[index]), float(high[index]), float(distance[index]), images[index], x)
        raise CasemateError(f"{path} is void: image {index} {reason}")
    return Submission(path, images, distance, inside)


def write_submission(challenge: Challenge, path: Path, x_adv: Images, x: Images) -> None:
    """Write adversarial images of the clean `x`, both [N, C, H, W] and the whole split in order, as a submission.

    The file holds float32. For MNIST these are the bits of `x_adv`. For CIFAR-10 they are 255 x_adv, rounded, and no
    further than eps from the bytes of the clean image: an image that is read back is within two roundings of float32
    of the one given, and inside the threat model. Raises `CasemateError` for images outside the threat model.
    """
    _check_clean(challenge, x)
    if x_adv.shape != x.shape:
        raise CasemateError(f"the adversarial images have shape {list(x_adv.shape)}, the clean ones {list(x.shape)}")
    array = np.empty(challenge.shape, dtype=np.float32)
    for part in _parts(len(x)):
        outside = (~challenge.threat.contains(x_adv[part], x[part])).nonzero()
        if len(outside):
            index = part.start + int(outside[0])
            raise CasemateError(f"adversarial image {index} is outside {challenge.threat}: a submission must be inside")
        values = _in_units(challenge, x_adv[part], x[part])
        array[part] = values.permute(0, 2, 3, 1).reshape(len(values), *challenge.shape[1:]).cpu().numpy()
    save_array(path, array)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write `array` as `.npy` to `path`, under that very name, whole or not at all."""
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _in_units(challenge: Challenge, x_adv: Images, x: Images) -> Images:
    if challenge.scale == 1:
        return x_adv
    # Bytes and eps are whole numbers, so the bounds are exact in float32; 255 times a float32 is exact in float64.
    clean = challenge.clean(x).float()
    values = (x_adv.double() * challenge.scale).float()
    return values.clamp((clean - challenge.eps).clamp(min=0), (clean + challenge.eps).clamp(max=challenge.scale))


def _from_file(challenge: Challenge, stored: np.ndarray) -> Values:
    channels, height, width = challenge.image
    with np.errstate(all="ignore"):  # what overflows is refused as out of range
        values = torch.from_numpy(np.array(stored, dtype=np.float64, order="C"))
    return values.view(-1, height, width, channels).permute(0, 3, 1, 2)


def _opened(challenge: Challenge, path: Path) -> np.ndarray:
    """The array of the file, not read yet: a header can promise more than the memory holds."""
    try:
        stored = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise CasemateError(f"{path} is absent: name the .npy file of a submission") from None
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise CasemateError(f"{path} is void: it cannot be read as one .npy array of numbers ({error})") from None
    if stored.shape != challenge.shape:
        raise CasemateError(
            f"{path} is void: it holds an array of shape {stored.shape}, and a submission for {challenge.data} has "
            f"{challenge.shape}"
        )
    if stored.dtype.kind not in challenge.dtypes:
        expected = "floats" if challenge.dtypes == "f" else "floats or integers"
        raise CasemateError(
            f"{path} is void: it holds {stored.dtype} values, and a submission for {challenge.data} has {expected} "
            f"from 0 to {challenge.scale}"
        )
    return stored


def _reason(challenge: Challenge, low: float, high: float, distance: float, image: Tensor, x: Images) -> str:
    """What is wrong with an image, in the order in which the original looks."""
    top, eps = challenge.scale, challenge.eps
    if low != low:
        return f"holds NaN, where every value must be in [0, {top}]"
    if not (low >= -TOLERANCE and high <= top + TOLERANCE):
        value, excess = (low, -low) if low < -TOLERANCE else (high, high - top)
        return f"holds the value {value:.9g}, which is {excess:.9g} outside [0, {top}]"
    clean = ((x - image).abs().flatten(1).amax(dim=1) <= eps / top).nonzero()
    if len(clean):
        return f"is image {int(clean[0])} of {challenge.data}[test]: the images must be in the order of the test split"
    return f"is moved by {distance:.9g}, which is {distance - eps:.9g} more than the {eps:g} that is allowed"


def _check_clean(challenge: Challenge, x: Images) -> None:
    if x.shape != (challenge.n_images, *challenge.image):
        raise CasemateError(
            f"the challenge on {challenge.data} is about {challenge.n_images} clean images of shape "
            f"{list(challenge.image)}, not {list(x.shape)}: give the whole test split"
        )


def _parts(n: int) -> Iterator[slice]:
    for start in range(0, n, _CHUNK):
        yield slice(start, min(start + _CHUNK, n))
