"""The training loop: one for every objective, at one process and at many (Lightning Fabric)."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning_fabric
import torch
from torch import Tensor, nn

from casemate import checkpoint, data, files, models, rng
from casemate.attacks import FGSM, PGD
from casemate.data import Dataset
from casemate.errors import CasemateError
from casemate.gradients import Engine, Precision
from casemate.threat import Images, parse
from casemate.training import batches, guard, schedule, state
from casemate.training.averaging import Average
from casemate.training.objective import Step
from casemate.training.recipe import Recipe

SAVE_EVERY_SECONDS = 20.0
STATE = "state.safetensors"
LOG = "log.jsonl"

# Told each line of the log as it is written, and the number of optimiser steps in all.
Observer = Callable[[Mapping[str, Any], int], None]


@dataclass(frozen=True)
class Settings:
    """Where and how to run a recipe; nothing here changes what is trained.

    `devices` processes on `accelerator` ("auto", "cpu", "cuda") share each batch. `precision` is that of the search
    for adversarial images and, where it is "bfloat16", of the update too (mixed precision).
    """

    devices: int = 1
    accelerator: str = "auto"
    precision: Precision = "auto"
    resume: bool = False
    command: str = ""


def train(
    recipe: Recipe, folder: Path, settings: Settings | None = None, *, observe: Observer | None = None
) -> dict[str, Any]:
    """Train by `recipe` into the checkpoint `folder`; returns the checkpoint's card.

    A run that was killed goes on with `settings.resume`, on the same machine to the same bits as an uninterrupted one.
    Raises `CasemateError` for a folder in use, a recipe that does not fit its data or model, and weights that diverge.
    """
    settings = settings or Settings()
    _refuse_used(folder, settings.resume)
    if (folder / checkpoint.CARD).exists():
        return checkpoint.load(folder)[1]
    if recipe.batch_size % settings.devices:
        raise CasemateError(
            f"a batch of {recipe.batch_size} does not divide among {settings.devices} devices: choose a multiple"
        )
    precision = "bf16-mixed" if settings.precision == "bfloat16" else "32-true"
    # Under torchrun or SLURM the processes are there already; else this process starts them.
    launched = "LOCAL_RANK" in os.environ or "SLURM_PROCID" in os.environ
    strategy = "auto" if settings.devices == 1 else "ddp" if launched else "ddp_spawn"
    fabric = lightning_fabric.Fabric(
        accelerator=settings.accelerator, devices=settings.devices, strategy=strategy, precision=precision
    )
    threads = max(1, torch.get_num_threads() // settings.devices)
    card: dict[str, Any] = fabric.launch(_run, recipe, folder, settings, observe, threads)
    return card


def _refuse_used(folder: Path, resume: bool) -> None:
    used = [name for name in (checkpoint.CARD, STATE) if (folder / name).exists()]
    if used and not resume:
        raise CasemateError(f"{folder} holds a run already ({used[0]}): name another folder, or add --resume")


def _run(
    fabric: lightning_fabric.Fabric,
    recipe: Recipe,
    folder: Path,
    settings: Settings,
    observe: Observer | None,
    threads: int,
) -> dict[str, Any]:
    if settings.devices > 1:
        torch.set_num_threads(threads)
    # Seeds are set at every step; the caller's own random state is left as it was.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return _Run(fabric, recipe, folder, settings, observe).go()


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
        self.fabric, self.recipe, self.folder, self.observe = fabric, recipe, folder, observe
        self.settings = settings
        dataset = data.load(recipe.data, "train")
        train_index, held_index = _split(dataset, recipe)
        self.dataset = dataset
        self.index = train_index
        self.images, self.labels = dataset.images.to(fabric.device), dataset.labels.to(fabric.device)
        self.held = self.images[held_index.to(fabric.device)], self.labels[held_index.to(fabric.device)], held_index
        self.per_epoch = len(train_index) // recipe.batch_size
        self.total = max(1, round(self.per_epoch * recipe.epochs))
        self.threat = parse(recipe.threat)
        self.objective = recipe.build_objective()

        torch.manual_seed(recipe.seed)
        self.raw = models.build(recipe.model.name, **recipe.model.arguments)
        self.raw = self.raw.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model, self.optimiser = fabric.setup(self.raw, _optimiser(self.raw, recipe))
        _refuse_misfit(self.raw, self.images[:2], dataset.n_classes, recipe)
        self.average = None if recipe.average is None else Average(self.raw, recipe.average)
        self.engine = Engine(
            self.raw, precision=settings.precision, batch_size=recipe.batch_size // fabric.world_size
        )
        self.progress = state.Progress()
        self.best: dict[str, Tensor] | None = None
        self.fingerprint = recipe.model_dump_json()

    def go(self) -> dict[str, Any]:
        if (self.folder / STATE).exists():
            self.progress, self.best = state.load(
                self.folder / STATE,
                recipe=self.fingerprint,
                model=self.raw,
                optimiser=self.optimiser,
                average=self.average,
            )
        if self.fabric.is_global_zero:
            self._begin_log()
        self.raw.train()
        before, cpu_before = self.progress.seconds, self.progress.cpu_seconds
        start, cpu_start = time.perf_counter(), time.process_time()
        saved = start
        while self.progress.number < self.total and not self._stopped():
            loss = self._step(self.progress.number)
            self.progress.number += 1
            now = time.perf_counter()
            self.progress.seconds = before + now - start
            self.progress.cpu_seconds = cpu_before + time.process_time() - cpu_start
            done = self.progress.number
            if done % max(1, self.per_epoch // 20) == 0 or done == self.total:
                self._report_step(loss)
            if done % (self.per_epoch * self.recipe.check.every) == 0 or done == self.total:
                self._check()
            if now - saved > SAVE_EVERY_SECONDS:
                self._save()
                saved = now
        return self._finish()

    def _step(self, number: int) -> Tensor:
        recipe, rank, world = self.recipe, self.fabric.global_rank, self.fabric.world_size
        # Dropout and the like draw from the global generator: a function of the step, so that a resume draws the same.
        torch.manual_seed(int(rng.fold(rng.image_keys(recipe.seed, torch.tensor([number])), "step", rank)))
        place = batches.batch_index(len(self.index), recipe.batch_size, number, recipe.seed)
        index = self.index[place][rank::world]
        keys = rng.fold(rng.image_keys(recipe.seed, index), "train", number).to(self.fabric.device)
        at = index.to(self.fabric.device)
        x, y = _augmented(self.images[at], keys, recipe.augment), self.labels[at]
        progress = number / self.total
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.optimiser.lr * schedule.rate(
                recipe.optimiser.schedule, progress, recipe.optimiser.warm_up
            )
        loss = self.objective(self.model, x, y, step=Step(number, progress, keys, self.engine))
        self.optimiser.zero_grad()
        self.fabric.backward(loss)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.raw, number)
        return loss.detach()

    def _check(self) -> None:
        """Clean, one-step and multi-step accuracy of the weights that would be kept, on held-out images."""
        settings = self.recipe.check
        x, y, index = (part[: settings.n] for part in self.held)
        engine = Engine(self._kept(), precision=self.settings.precision)
        keys = rng.fold(rng.image_keys(self.recipe.seed, index), "check").to(x.device)
        one_step = FGSM()(engine, x, y, self.threat, keys=keys)
        attacked = PGD(n_steps=settings.n_steps, loss="margin")(engine, x, y, self.threat, keys=keys)
        accuracies = [_accuracy(engine, images, y, keys) for images in (x, one_step, attacked)]
        # Every process must take the same decisions from here on.
        accuracies = self.fabric.broadcast(accuracies)
        number, epoch = self.progress.number, self.progress.number / self.per_epoch
        check = guard.Check(number, epoch, *accuracies)
        if not self.progress.checks or check.attacked > max(c.attacked for c in self.progress.checks):
            self.best = {name: tensor.detach().clone() for name, tensor in self._kept().state_dict().items()}
        self.progress.checks.append(check)
        self._log(
            {
                "kind": "check",
                "step": number,
                "epoch": epoch,
                "seconds": self.progress.seconds,
                "clean_accuracy": check.clean,
                "one_step_accuracy": check.one_step,
                "attacked_accuracy": check.attacked,
                "catastrophic_overfitting": guard.catastrophic_overfitting(self.progress.checks),
            }
        )

    def _stopped(self) -> bool:
        patience, checks = self.recipe.check.patience, self.progress.checks
        if not checks or patience is None:
            return False
        return guard.catastrophic_overfitting(checks) or guard.robust_overfitting(checks, patience)

    def _kept(self) -> nn.Module:
        return self.raw if self.average is None else self.average.model

    def _finish(self) -> dict[str, Any]:
        recipe, checks = self.recipe, self.progress.checks
        kept, check = self._kept(), checks[-1]
        if recipe.check.patience is not None and self.best is not None:
            kept.load_state_dict(self.best)
            check = max(checks, key=lambda check: check.attacked)
        card: dict[str, Any] = {
            "architecture": recipe.model.name,
            "arguments": recipe.model.arguments,
            "threat": recipe.threat,
            "data": {"name": recipe.data, "split": "train", "fingerprint": self.dataset.fingerprint},
            "recipe": recipe.model_dump(mode="json"),
            "seed": recipe.seed,
            "metrics": dataclasses.asdict(check),
            "catastrophic_overfitting": guard.catastrophic_overfitting(checks),
            "steps": self.progress.number,
            "seconds": self.progress.seconds,
            "cpu_seconds": self.progress.cpu_seconds,
            "devices": self.fabric.world_size,
            "search_precision": self.engine.search_precision,
            "threads": torch.get_num_threads(),
            "command": self.settings.command,
        }
        if self.fabric.is_global_zero:
            checkpoint.save(self.folder, kept, card)
            (self.folder / STATE).unlink(missing_ok=True)
        self.fabric.barrier()
        return checkpoint.load(self.folder)[1]

    def _save(self) -> None:
        if self.fabric.is_global_zero:
            state.save(
                self.folder / STATE,
                recipe=self.fingerprint,
                progress=self.progress,
                model=self.raw,
                optimiser=self.optimiser,
                average=self.average,
                best=self.best,
            )

    def _begin_log(self) -> None:
        """Keep the lines of the log up to the step the run goes on from; later ones will be written again."""
        rows = []
        if (self.folder / LOG).exists():
            for line in (self.folder / LOG).read_text().splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    break  # the line that was being written when the run was killed
                if row["step"] <= self.progress.number:
                    rows.append(line + "\n")
        files.write_bytes(self.folder / LOG, "".join(rows).encode())

    def _report_step(self, loss: Tensor) -> None:
        value = float(loss)
        if value != value:
            raise CasemateError(
                f"the loss is not a number at step {self.progress.number}: lower the learning rate of the recipe"
            )
        self._log(
            {
                "kind": "train",
                "step": self.progress.number,
                "epoch": self.progress.number / self.per_epoch,
                "seconds": self.progress.seconds,
                "loss": value,
                "lr": self.optimiser.param_groups[0]["lr"],
            }
        )

    def _log(self, row: Mapping[str, Any]) -> None:
        if self.fabric.is_global_zero:
            with (self.folder / LOG).open("a") as log:
                log.write(json.dumps(row) + "\n")
            if self.observe is not None:
                self.observe(row, self.total)


def _split(dataset: Dataset, recipe: Recipe) -> tuple[Tensor, Tensor]:
    if recipe.hold_out + recipe.batch_size > len(dataset):
        raise CasemateError(
            f"{recipe.data} has {len(dataset)} training images: too few to hold out {recipe.hold_out} and fill a "
            f"batch of {recipe.batch_size}"
        )
    return batches.hold_out(len(dataset), recipe.hold_out, recipe.seed)


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    settings = recipe.optimiser
    if settings.kind == "adam":
        return torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
    )


def _refuse_misfit(model: nn.Module, x: Images, n_classes: int, recipe: Recipe) -> None:
    """Images of the wrong size or too few outputs, found before the first epoch rather than in it."""
    try:
        logits = Engine(model).logits(x)
    except RuntimeError as error:
        raise CasemateError(
            f"{recipe.model.name} does not take the {list(x.shape[1:])} images of {recipe.data}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    if logits.shape[1] < n_classes:
        raise CasemateError(
            f"{recipe.model.name} has {logits.shape[1]} outputs and {recipe.data} {n_classes} classes: "
            f"add n_classes: {n_classes} to the model's arguments"
        )


def _augmented(x: Images, keys: rng.Keys, augment: str) -> Images:
    match augment:
        case "shift":
            return batches.cropped(x, rng.fold(keys, "augment"), pad=2, flip=False)
        case "crop-flip":
            return batches.cropped(x, rng.fold(keys, "augment"), pad=4, flip=True)
        case _:
            return x


def _accuracy(engine: Engine, x: Images, y: Tensor, keys: rng.Keys) -> float:
    return float((engine.logits(x, keys=keys).argmax(dim=1) == y).double().mean())
