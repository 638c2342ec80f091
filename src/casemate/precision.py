"""The precision of a search: float32, or bfloat16 where this device is measured to be faster with it."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import nn

from casemate import rng
from casemate.errors import CasemateError
from casemate.search_copy import differentiable, laid_out, search_copy
from casemate.threat import Images

Precision = Literal["auto", "float32", "bfloat16"]

# The part of float32's time that bfloat16 may take at most: noise saves less, and so little is not worth the rounding.
WORTH_IT = 0.8

_faster: dict[tuple[str, str, tuple[int, ...]], torch.dtype] = {}


def check_precision(name: str) -> Precision:
    """`name` as a precision; raises `CasemateError` listing the known ones."""
    for known in get_args(Precision):
        if name == known:
            return known
    raise CasemateError(f"unknown precision {name!r}: choose one of {', '.join(get_args(Precision))}")


def search_dtype(precision: Precision, model: nn.Module, x: Images) -> torch.dtype:
    """What to search in on images like `x`; "auto" measures once per process, device and architecture."""
    if precision != "auto":
        return torch.float32 if precision == "float32" else torch.bfloat16
    if not len(x) or not _may_be_faster_in_bfloat16(x.device):
        return torch.float32
    shapes = tuple(value for parameter in model.parameters() for value in parameter.shape)
    key = (str(x.device), type(model).__qualname__, (*x.shape[1:], *shapes))
    if key not in _faster:
        _faster[key] = _measure_faster(model, x[:64])
    # Speed is a matter of the shapes, but whether the answers survive is one of these very weights.
    rough = _faster[key]
    return rough if rough == torch.float32 or _agrees(model, x[:64], rough) else torch.float32


@contextlib.contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """float32 arithmetic without the shortened mantissas (TF32) that CUDA convolutions use by default."""
    if device.type != "cuda":
        yield
        return
    backends: Any = torch.backends
    kinds = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def _may_be_faster_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without instructions of its own a processor emulates bfloat16, and then only noise could make it look faster.
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _measure_faster(model: nn.Module, x: Images) -> torch.dtype:
    """bfloat16 where an input gradient takes clearly less time in it than in float32, and where it runs at all."""
    exact = _gradient_seconds(search_copy(model, torch.float32), x, torch.float32)
    try:
        rough = _gradient_seconds(search_copy(model, torch.bfloat16), x, torch.bfloat16)
    except RuntimeError:
        return torch.float32
    return torch.bfloat16 if rough <= WORTH_IT * exact else torch.float32


def _agrees(model: nn.Module, x: Images, dtype: torch.dtype) -> bool:
    """Whether the differences between logits, all that a search sees, survive `dtype`; they do not where it is NaN."""
    answers = []
    for precision in (torch.float32, dtype):
        keys = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        try:
            with torch.no_grad(), rng.drawing_from(keys):
                logits = search_copy(model, precision)(laid_out(x, precision)).float()
        except RuntimeError:
            # Measured was another model of these shapes; this one has a layer that does not run in `dtype`.
            return False
        answers.append(logits - logits.mean(dim=1, keepdim=True))
    exact, rough = answers
    return bool((exact - rough).norm() <= 0.1 * exact.norm())


def _gradient_seconds(search: nn.Module, x: Images, dtype: torch.dtype) -> float:
    """The least of five timings after one warm-up."""
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        leaf = x.detach().requires_grad_(True)
        with torch.enable_grad(), rng.drawing_from(torch.zeros(len(x), dtype=torch.int64, device=x.device)):
            torch.autograd.grad(differentiable(search(laid_out(leaf, dtype))).float().sum(), leaf)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
