"""The engine every attack uses: logits of the classifier as it is, and input gradients found as fast as possible.

A claim is only ever made from `Engine.logits`, the user's own module in its own precision. A search uses
`Engine.gradient`, which works on a private copy of the classifier: weights frozen, channels_last, in bfloat16 where
that is measured to be faster, in batches that fit the memory, with the surrogates (BPDA) and the averaging over random
draws (EOT) that the classifier's own layers declare. The user's module is never changed.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from casemate import rng
from casemate.classifier import check_logits
from casemate.draws import enough_draws
from casemate.errors import CasemateError
from casemate.losses import Labels, Logits, Loss
from casemate.precision import Precision, check_precision, full_float32, search_dtype
from casemate.search_copy import differentiable, laid_out, search_copy
from casemate.threat import Images

# Matrix kernels round small or odd batches differently; whole multiples of the lanes of a vector give each image the
# same bits in batches of many sizes (measured: oneDNN and MKL on x86-64 with one thread), so that a verdict does not
# depend on the batch an image is in. With more threads MKL splits some matrices by their size all the same.
BATCH_MULTIPLE = 16 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else 8
# Activations beyond the last-level cache make the gradient of small networks up to 1.8 times slower on a CPU.
CPU_WORKING_SET = 32 * 2**20
MAX_BATCH = 1024
# On so many images it is measured how many draws the gradient of a randomised classifier needs.
PILOT = 32


class Engine:
    """A classifier made ready for attack; what it computes for an image does not depend on the batch it is in.

    `precision` is that of the search alone: "auto" measures once per process, device and architecture.
    `batch_size` is the number of images in one pass; None chooses it from the memory one image takes, and either is
    halved for good when the device runs out of memory. `draws` is the number of random draws that a gradient of a
    randomised classifier is the mean of; None measures at the first gradient how many it takes (`enough_draws`).

    `stand_in` is differentiated in the place of the classifier, for one whose own gradient is of no use: a module from
    the same images to as many logits. What an attack is told of the points it passes are the classifier's own logits
    all the same, for one more forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        precision: Precision = "auto",
        batch_size: int | None = None,
        draws: int | None = None,
        stand_in: nn.Module | None = None,
    ) -> None:
        check_precision(precision)
        for what, value in (("batch size", batch_size), ("number of draws", draws)):
            if value is not None and value < 1:
                raise CasemateError(f"the {what} must be at least 1, not {value}")
        self.model = model
        self.precision: Precision = precision
        self.batch_size = batch_size
        self.stand_in = stand_in
        self.random_answers = _is_stochastic(model)
        self.stochastic = self.random_answers or (stand_in is not None and _is_stochastic(stand_in))
        self.draws = draws if self.stochastic else 1
        self._search: nn.Module | None = None
        self._dtype = torch.float32

    def logits(self, x: Images, *, keys: rng.Keys | None = None) -> Logits:
        """The classifier's own answer, in eval mode and without a graph: float32 [batch, classes].

        `keys` fix the draws of a randomised classifier. Raises `CasemateError` when the answer is not finite logits.
        """
        draw = None if keys is None else rng.fold(keys, "verdict")

        def run(part: slice, images: Images) -> Tensor:
            # Not inference mode, in which a classifier could not take gradients of its own.
            with torch.no_grad(), rng.drawing_from(_padded_keys(draw, part, len(images))):
                # A clone, because a model may write into its input.
                answer = self.model(images.clone())
            if not isinstance(answer, Tensor):
                check_logits(answer, len(images), what="the model")
            return answer

        with evaluating(self.model), full_float32(x.device):
            (logits,) = self._batched(x, lambda part, images: (run(part, images),))
        logits = logits.float()
        check_logits(logits, len(x), what="the model")
        return logits

    def gradient(
        self, x: Images, y: Labels, loss: Loss, *, target: Tensor | None = None, keys: rng.Keys | None = None
    ) -> tuple[Images, Logits]:
        """The gradient of `loss` for each image with respect to that image alone, and the logits at x.

        `target` [batch, ...] goes to the loss. Both results are float32; a gradient that is not finite counts as zero.
        For a randomised classifier both are means over `draws` draws made from `keys` (expectation over transformation,
        Athalye et al. 2018, section 4.2).
        """
        search = self._search_model(x)

        def run(part: slice, images: Images) -> tuple[Tensor, Tensor]:
            size = len(images)
            labels = _padded(y[part], size)
            targets = None if target is None else _padded(target[part], size)
            # Leaf of the graph in float32: the cast is part of it, so the gradient comes back in float32.
            leaf = images.detach().requires_grad_(True)
            with torch.enable_grad():
                logits = differentiable(search(laid_out(leaf, self._dtype)).float())
                # Summed, so that one image's gradient does not depend on how many others there are.
                (gradient,) = torch.autograd.grad(loss(logits, labels, targets).sum(), leaf)
            return gradient, logits.detach()

        def drawn(draw: int, part: slice, images: Images) -> tuple[Tensor, Tensor]:
            draw_keys = None if keys is None else rng.fold(keys, "eot", draw)
            with rng.drawing_from(_padded_keys(draw_keys, part, len(images))):
                return run(part, images)

        if self.draws is None:
            self.draws = enough_draws(lambda draw: self._batched(x[:PILOT], partial(drawn, draw))[0])
        n_draws = self.draws

        def averaged(part: slice, images: Images) -> tuple[Tensor, Tensor]:
            if not self.stochastic:
                return run(part, images)
            total_gradient, total_logits = torch.zeros_like(images), torch.zeros((), device=images.device)
            for draw in range(n_draws):
                gradient, logits = drawn(draw, part, images)
                total_gradient += gradient / n_draws
                total_logits = total_logits + logits / n_draws
            return total_gradient, total_logits

        gradient, logits = self._batched(x, averaged)
        if self.stand_in is not None and not self.random_answers:
            logits = self.logits(x)
        return torch.nan_to_num_(gradient, nan=0.0, posinf=0.0, neginf=0.0), logits

    def refresh(self) -> None:
        """Copy the weights again after the classifier was trained on; cheap beside one gradient."""
        if self._search is not None:
            with torch.no_grad():
                for mine, theirs in zip(_state(self._search), _state(self._searched), strict=True):
                    mine.copy_(theirs)

    @property
    def search_precision(self) -> str:
        """What the search runs in: "float32" or "bfloat16"; known after the first gradient."""
        return str(self._dtype).removeprefix("torch.")

    def _search_model(self, x: Images) -> nn.Module:
        if self._search is None:
            self._dtype = search_dtype(self.precision, self._searched, x)
            self._search = search_copy(self._searched, self._dtype)
        return self._search

    @property
    def _searched(self) -> nn.Module:
        return self.model if self.stand_in is None else self.stand_in

    def _batched(self, x: Images, run: Callable[[slice, Images], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Call `run` on consecutive batches, each padded to a whole multiple; join the results without the padding."""
        if self.batch_size is None:
            self.batch_size = _choose_batch_size(self._searched, x)
        results: list[tuple[Tensor, ...]] = []
        start = 0
        while start < len(x) or not results:
            part = slice(start, min(start + self.batch_size, len(x)))
            size = part.stop - part.start
            images = _padded(x[part], -(-max(size, 1) // BATCH_MULTIPLE) * BATCH_MULTIPLE) if size else x
            try:
                results.append(tuple(result[:size] for result in run(part, images)))
                start = part.stop
                continue
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                message = str(error).splitlines()[0]
            if self.batch_size <= BATCH_MULTIPLE:
                raise CasemateError(f"{BATCH_MULTIPLE} images do not fit the memory of {x.device}: {message}")
            self.batch_size = max(BATCH_MULTIPLE, self.batch_size // 2)
            if x.device.type == "cuda":
                torch.cuda.empty_cache()
        return tuple(torch.cat(column) for column in zip(*results, strict=True))


Classifier = nn.Module | Engine


def engine_for(model: Classifier) -> Engine:
    """`model` itself where it is an engine already, else a new one around it with everything chosen by measurement."""
    return model if isinstance(model, Engine) else Engine(model)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode while open; afterwards every submodule is in the mode it was in before, also on an exception."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        # Setting a mode takes a module ten times as long as reading it, which shows where a pass takes 0.1 ms.
        if any(training for _, training in modes):
            model.eval()
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.training = training


def _padded(values: Tensor, size: int) -> Tensor:
    """`values` with its first entry repeated at the end up to `size` entries."""
    missing = size - len(values)
    return values if missing == 0 else torch.cat([values, values[:1].expand(missing, *values.shape[1:])])


def _padded_keys(keys: rng.Keys | None, part: slice, size: int) -> Int64[Tensor, "padded"] | None:
    return None if keys is None else _padded(keys[part], size)


def _is_stochastic(model: nn.Module) -> bool:
    return any(getattr(module, "stochastic", False) for module in model.modules())


def _state(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _choose_batch_size(model: nn.Module, x: Images) -> int:
    """As many images as fit the working set by the memory that autograd keeps for one of them."""
    if not len(x):
        return MAX_BATCH
    weights = {tensor.untyped_storage().data_ptr() for tensor in _state(model)}
    kept = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal kept
        if tensor.untyped_storage().data_ptr() not in weights:
            kept += tensor.numel() * tensor.element_size()
        return tensor

    probe = x[:1].detach().clone().requires_grad_(True)
    # Keys of their own, so that a stochastic layer leaves the global random state alone.
    draws = rng.drawing_from(torch.zeros(1, dtype=torch.int64, device=x.device))
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    # A classifier that computes outside of autograd, in numpy say, refuses a tensor with a gradient. What else may be
    # wrong with it the pass itself will say.
    with evaluating(model), torch.enable_grad(), draws, hooks, contextlib.suppress(RuntimeError):
        model(probe.clone())
    budget = CPU_WORKING_SET
    if x.device.type == "cuda":
        budget = torch.cuda.mem_get_info(x.device)[0] // 3
    fits = budget // max(kept, 1) // BATCH_MULTIPLE * BATCH_MULTIPLE
    return int(min(max(fits, BATCH_MULTIPLE), MAX_BATCH if x.device.type != "cuda" else 8 * MAX_BATCH))


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
