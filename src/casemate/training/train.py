"""The training loop: one for every objective, at one process and at many (Lightning Fabric)."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning_fabric
import torch
from torch import Tensor, nn

from casemate import checkpoint, data, models, rng
from casemate.errors import CasemateError
from casemate.gradients import Engine, evaluating
from casemate.losses import cross_entropy
from casemate.precision import Precision, check_precision
from casemate.threat import parse
from casemate.training import guard, refusals, state
from casemate.training.averaging import Average
from casemate.training.batches import Batches
from casemate.training.folder import claimed, finished
from casemate.training.launch import Devices, launch
from casemate.training.layout import laid_out
from casemate.training.log import LOG as LOG
from casemate.training.log import Log, Observer
from casemate.training.objective import Step
from casemate.training.recipe import Recipe
from casemate.training.state import STATE as STATE

SAVE_EVERY_SECONDS = 20.0


@dataclass(frozen=True)
class Settings:
    """Where and how to run a recipe; nothing here changes what is trained.

    `devices` processes on `accelerator` ("auto", "cpu", "cuda") share each batch. `precision` is that of the search
    for adversarial images and, where it is "bfloat16", of the update too, with the bounds that it minimises (mixed
    precision).
    """

    devices: int = 1
    accelerator: str = "auto"
    precision: Precision = "auto"
    resume: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.devices < 1:
            raise CasemateError(f"training needs at least 1 device, not {self.devices}")


def train(
    recipe: Recipe, folder: Path, settings: Settings | None = None, *, observe: Observer | None = None
) -> dict[str, Any]:
    """Train by `recipe` into the checkpoint `folder`; returns the checkpoint's card.

    A run that was killed goes on with `settings.resume`: on the same machine, with as many devices and threads, to the
    same bits as an uninterrupted one. The caller's random state and number of threads are left as they were.
    Several devices that neither torchrun nor SLURM provides are processes started here, so a script that calls this
    needs `if __name__ == "__main__":`; `observe` is then called in a thread of this process.

    Raises `CasemateError` for a folder in use, a recipe that does not fit its data or model, devices that are not
    there, a full disk and weights that diverge.
    """
    settings = settings or Settings()
    card = finished(folder, recipe, resume=settings.resume)
    if card is not None:
        return card
    if recipe.batch_size % settings.devices:
        raise CasemateError(
            f"a batch of {recipe.batch_size} does not divide among {settings.devices} devices: choose a multiple"
        )
    devices = Devices(settings.devices, settings.accelerator, mixed=settings.precision == "bfloat16")
    return launch(_run, recipe, folder, settings, SAVE_EVERY_SECONDS, devices=devices, observe=observe)


def _run(
    fabric: lightning_fabric.Fabric,
    recipe: Recipe,
    folder: Path,
    settings: Settings,
    save_every: float,
    observe: Observer | None,
) -> dict[str, Any]:
    claim = claimed(folder) if fabric.is_global_zero else contextlib.nullcontext()
    with claim, _reproducible():
        return _Run(fabric, recipe, folder, settings, observe).go(save_every)


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    """Seeds are set at every step, and cuDNN is kept to one algorithm; afterwards all is as the caller had it."""
    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        torch.backends.cudnn.deterministic = deterministic


class _Run:
    """The state of one process of one training run."""

    def __init__(
        self,
        fabric: lightning_fabric.Fabric,
        recipe: Recipe,
        folder: Path,
        settings: Settings,
        observe: Observer | None,
    ) -> None:
        self.fabric, self.recipe, self.folder, self.settings = fabric, recipe, folder, settings
        self.threat, self.objective = parse(recipe.threat), recipe.build_objective()
        torch.manual_seed(recipe.seed)
        self.raw = laid_out(models.build(recipe.model.name, **recipe.model.arguments), fabric.device)
        # Only one process downloads what is not there yet.
        with fabric.rank_zero_first(local=True):
            dataset = data.load(recipe.data, "train")
        self.data_fingerprint, self.n_classes = dataset.fingerprint, dataset.n_classes
        self.batches = Batches(dataset, recipe, fabric.device, fabric.global_rank, fabric.world_size)
        self.model, self.optimiser = fabric.setup(self.raw, recipe.optimiser.build(self.raw))
        refusals.refuse_misfit(self.raw, self.batches, self.n_classes)
        self.average = None if recipe.average is None else Average(self.raw, recipe.average)
        self.log = Log(folder, self.batches.total, observe)
        self.progress = state.Progress()
        self.best: state.Weights | None = None

    def go(self, save_every: float) -> dict[str, Any]:
        self._begin()
        share = self.recipe.batch_size // self.fabric.world_size
        engine = Engine(self.raw, precision=self.progress.precision, batch_size=share)
        self.raw.train()
        per_epoch, total = self.batches.per_epoch, self.batches.total
        before, cpu_before = self.progress.seconds, self.progress.cpu_seconds
        start, cpu_start = time.perf_counter(), time.process_time()
        saved = start
        while self.progress.number < total and not guard.should_stop(self.progress.checks, self.recipe.check.patience):
            with self._blaming_divergence():
                loss = self._step(self.progress.number, engine)
            self.progress.number += 1
            done, now = self.progress.number, time.perf_counter()
            self.progress.seconds = before + now - start
            self.progress.cpu_seconds = cpu_before + time.process_time() - cpu_start
            if done % max(1, per_epoch // 20) == 0 or done == total:
                self._report(loss)
            if done % (per_epoch * self.recipe.check.every) == 0 or done == total:
                with self._blaming_divergence():
                    self._check()
            if now - saved > save_every:
                self._save()
                saved = now
        return self._finish()

    def _begin(self) -> None:
        """Take up the state of a run that was killed, if there is one, and settle the precision of the search."""
        if (self.folder / STATE).exists():
            self.progress, self.best = state.load(
                self.folder / STATE,
                recipe=self.recipe,
                model=self.raw,
                optimiser=self.optimiser,
                average=self.average,
            )
        if self.fabric.is_global_zero:
            self.log.go_on_from(self.progress.number)
        if self.settings.precision != "auto":
            self.progress.precision = self.settings.precision
        elif self.progress.precision == "auto":
            # Measured, so every process and every resume must be told what it came to.
            engine, held = Engine(self.raw), self.batches.held
            engine.gradient(held.x[:64], held.y[:64], cross_entropy, keys=held.keys[:64])
            self.progress.precision = check_precision(self.fabric.broadcast(engine.search_precision))

    def _step(self, number: int, engine: Engine) -> Tensor:
        seed, rank = self.recipe.seed, self.fabric.global_rank
        # Dropout and the like draw from the global generator: a function of the step, so that a resume draws the same.
        torch.manual_seed(int(rng.fold(rng.image_keys(seed, torch.tensor([number])), "step", rank)))
        batch, progress = self.batches(number), number / self.batches.total
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.optimiser.rate(progress)
        step = Step(number, progress, number / self.batches.per_epoch, batch.keys, engine)
        # Bounds go round the model's own forward, which is all that Fabric would run in mixed precision.
        with self.fabric.autocast():
            loss: Tensor = self.objective(self.model, batch.x, batch.y, step=step)
        self.optimiser.zero_grad()
        self.fabric.backward(loss)
        if self.recipe.optimiser.clip is not None:
            self.fabric.clip_gradients(self.model, self.optimiser, max_norm=self.recipe.optimiser.clip)
        self.optimiser.step()
        if self.fabric.world_size > 1:
            # Each process updates running statistics from its own share; the next search needs the same everywhere.
            for buffer in self.raw.buffers():
                torch.distributed.broadcast(buffer, src=0)
        if self.average is not None:
            self.average.update(self.raw, number)
        return loss.detach()

    def _report(self, loss: Tensor) -> None:
        # The loss of the whole batch, so that all processes see the same and stop together.
        whole: Any = self.fabric.all_reduce(loss, reduce_op="mean")
        value = float(whole)
        refusals.refuse_diverged(value, self.n_classes, self.progress.number)
        self._log("train", loss=value, lr=self.optimiser.param_groups[0]["lr"])

    def _check(self) -> None:
        """Clean, one-step and multi-step accuracy of the weights that would be kept, on held-out images."""
        engine = Engine(self._kept(), precision=self.progress.precision)
        found = guard.accuracies(engine, self.batches.held, self.threat, self.recipe.check.n_steps)
        # Every process must take the same decisions from here on.
        check = guard.Check(self.progress.number, self._epoch(), *self.fabric.broadcast(found))
        checks = self.progress.checks
        if not checks or check.attacked > max(earlier.attacked for earlier in checks):
            self.best = {name: tensor.detach().clone() for name, tensor in self._kept().state_dict().items()}
        checks.append(check)
        self._log(
            "check",
            clean_accuracy=check.clean,
            one_step_accuracy=check.one_step,
            attacked_accuracy=check.attacked,
            catastrophic_overfitting=guard.catastrophic_overfitting(checks),
        )

    def _log(self, kind: str, **values: float) -> None:
        if self.fabric.is_global_zero:
            where = {"step": self.progress.number, "epoch": self._epoch(), "seconds": self.progress.seconds}
            self.log.write({"kind": kind, **where, **values})

    def _epoch(self) -> float:
        return self.progress.number / self.batches.per_epoch

    def _kept(self) -> nn.Module:
        return self.raw if self.average is None else self.average.model

    def _save(self) -> None:
        if not self.fabric.is_global_zero:
            return
        refusals.refuse_not_finite(self.raw, self.progress.number)
        state.save(
            self.folder / STATE,
            recipe=self.recipe,
            progress=self.progress,
            model=self.raw,
            optimiser=self.optimiser,
            average=self.average,
            best=self.best,
        )

    def _finish(self) -> dict[str, Any]:
        recipe, checks = self.recipe, self.progress.checks
        kept, check = self._kept(), checks[-1]
        stopped = guard.should_stop(checks, recipe.check.patience)
        if recipe.check.patience is not None and self.best is not None and (stopped or recipe.check.keep == "best"):
            kept.load_state_dict(self.best)
            check = max(checks, key=lambda check: check.attacked)
        card: dict[str, Any] = {
            "architecture": recipe.model.name,
            "arguments": recipe.model.arguments,
            "threat": recipe.threat,
            "data": {"name": recipe.data, "split": "train", "fingerprint": self.data_fingerprint},
            "recipe": recipe.model_dump(mode="json"),
            "seed": recipe.seed,
            "metrics": dataclasses.asdict(check),
            "catastrophic_overfitting": guard.has_overfitted_catastrophically(checks),
            "steps": self.progress.number,
            "seconds": self.progress.seconds,
            "cpu_seconds": self.progress.cpu_seconds,
            "devices": self.fabric.world_size,
            "search_precision": self.progress.precision,
            "threads": torch.get_num_threads(),
            "command": self.settings.command,
        }
        if self.fabric.is_global_zero:
            refusals.refuse_not_finite(kept, self.progress.number)
            checkpoint.save(self.folder, kept, card)
            (self.folder / STATE).unlink(missing_ok=True)
        self.fabric.barrier()
        return checkpoint.load(self.folder)[1]

    @contextlib.contextmanager
    def _blaming_divergence(self) -> Iterator[None]:
        """The engine refuses logits that are not finite; here the reason is known."""
        try:
            yield
        except CasemateError:
            for model in (self.raw, self._kept()):
                refusals.refuse_not_finite(model, self.progress.number)
                with torch.no_grad(), evaluating(model):
                    if not bool(model(self.batches.held.x[:64]).isfinite().all()):
                        raise refusals.diverged(self.progress.number) from None
            raise
