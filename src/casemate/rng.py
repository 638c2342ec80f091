"""Randomness per image: a number depends on (seed, image, procedure, restart), never on the batch the image is in.

Every image carries a 64-bit key. Random numbers are a hash of that key and a counter (SplitMix64: Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), computed element by element with integer
arithmetic, so an image draws the same numbers in any batch, in any order, on any device.
"""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

Keys = Int64[Tensor, "batch"]

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def image_keys(seed: int, index: Int64[Tensor, "batch"]) -> Keys:
    """The root key of each image: a function of the run's seed and the image's index in its data set."""
    return _mix(_mix(index.to(torch.int64) * _GAMMA + 1) ^ _label(f"seed:{seed}"))


def fold(keys: Keys, *labels: str | int) -> Keys:
    """New keys for a named procedure (and restart): `fold(keys, "pgd", 3)`. Unrelated to the old ones."""
    for label in labels:
        keys = _mix(keys ^ _label(f"{type(label).__name__}:{label}"))
    return keys


def uniform(keys: Keys, shape: Sequence[int]) -> Float32[Tensor, "batch ..."]:
    """Independent uniform numbers in [0, 1) for each image, float32 [batch, *shape], multiples of 2^-24."""
    return (_bits(keys, shape) >> 40 & 0xFFFFFF).to(torch.float32) * 2.0**-24


def normal(keys: Keys, shape: Sequence[int]) -> Float32[Tensor, "batch ..."]:
    """Independent standard normal numbers for each image, float32 [batch, *shape] (Box-Muller)."""
    bits = _bits(keys, shape)
    # (0, 1], so that the logarithm is finite.
    u = ((bits >> 40 & 0xFFFFFF) + 1).to(torch.float32) * 2.0**-24
    v = (bits & 0xFFFFFF).to(torch.float32) * 2.0**-24
    return torch.sqrt(-2 * torch.log(u)) * torch.cos(2 * math.pi * v)


def exponential(keys: Keys, shape: Sequence[int]) -> Float32[Tensor, "batch ..."]:
    """Independent standard exponential numbers for each image, float32 [batch, *shape]."""
    return -torch.log1p(-uniform(keys, shape))


_ambient: ContextVar[Keys | None] = ContextVar("casemate_keys", default=None)


@contextlib.contextmanager
def drawing_from(keys: Keys | None) -> Iterator[None]:
    """While this is open, a stochastic layer that asks `layer_keys` draws from the keys of the images in the batch."""
    token = _ambient.set(keys)
    try:
        yield
    finally:
        _ambient.reset(token)


def ambient_keys(x: Tensor) -> Keys | None:
    """The keys of the images in the batch `x` [batch, ...] inside an attack or an audit; None elsewhere."""
    keys = _ambient.get()
    return None if keys is None or len(keys) != len(x) else keys


def layer_keys(x: Tensor, layer: str) -> Keys:
    """Keys for the random choices of a layer called `layer` on the batch `x` [batch, ...].

    Inside an attack or an audit they derive from the images' own keys; elsewhere from torch's global generator, as a
    user who simply calls the model expects.
    """
    keys = ambient_keys(x)
    if keys is None:
        return torch.randint(-(2**63), 2**63 - 1, (len(x),), dtype=torch.int64).to(x.device)
    return fold(keys.to(x.device), layer)


def _bits(keys: Keys, shape: Sequence[int]) -> Int64[Tensor, "batch ..."]:
    counter = torch.arange(1, math.prod(shape) + 1, dtype=torch.int64, device=keys.device)
    return _mix(keys[:, None] + counter * _GAMMA).view(len(keys), *shape)


def _mix(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64; int64 products wrap, and the masks make the arithmetic shifts logical."""
    # In place wherever the value is our own: a third of the time for the numbers of a batch of images.
    z = (z >> 30).bitwise_and_(0x3FFFFFFFF).bitwise_xor_(z).mul_(_MIX_1)
    z = (z >> 27).bitwise_and_(0x1FFFFFFFFF).bitwise_xor_(z).mul_(_MIX_2)
    return (z >> 31).bitwise_and_(0x1FFFFFFFF).bitwise_xor_(z)


def _label(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)
