"""The processes of a training run: this one alone, several that are started here, or those of torchrun or SLURM."""

import contextlib
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import lightning_fabric
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from casemate.errors import CasemateError
from casemate.training.log import Observer

# Called with the Fabric, the arguments and the observer (None where there is nobody to tell); in every process.
Function = Callable[..., dict[str, Any]]


def launch(
    function: Function, *arguments: Any, devices: int, accelerator: str, mixed: bool, observe: Observer | None
) -> dict[str, Any]:
    """What `function(fabric, *arguments, observe)` returns in the first of `devices` processes.

    `observe` is never sent to another process, so it may be any callable: where the processes are started here, it
    is called in this one, in a thread of its own. `mixed` is mixed precision in bfloat16. Raises `CasemateError`
    where the devices are not there and, from whichever process raised it, the one of `function`.
    """
    # Under torchrun or SLURM the processes are there already.
    spawned = devices > 1 and not (TorchElasticEnvironment.detect() or SLURMEnvironment.detect())
    with _quiet():
        fabric = _fabric(devices, accelerator, mixed, start_method="spawn" if spawned else "popen")
        if spawned:
            return _spawn(fabric, function, arguments, observe, devices)
        card: dict[str, Any] = fabric.launch(function, *arguments, observe)
        return card


def _fabric(devices: int, accelerator: str, mixed: bool, start_method: Any) -> lightning_fabric.Fabric:
    # The loop itself keeps the buffers of the processes the same.
    strategy: Any = "auto" if devices == 1 else DDPStrategy(start_method=start_method, broadcast_buffers=False)
    precision: Any = "bf16-mixed" if mixed else "32-true"
    try:
        return lightning_fabric.Fabric(accelerator=accelerator, devices=devices, strategy=strategy, precision=precision)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise CasemateError(f"cannot train on {devices} x {accelerator} here: {' '.join(str(error).split())}") from None


def _spawn(
    fabric: lightning_fabric.Fabric,
    function: Function,
    arguments: tuple[Any, ...],
    observe: Observer | None,
    devices: int,
) -> dict[str, Any]:
    failures: list[Exception] = []
    threads = max(1, torch.get_num_threads() // devices)
    try:
        with _relaying(observe, failures) as writer, _ending_children(), _same_environment("MASTER_PORT"):
            child: Any = _child
            card: dict[str, Any] = fabric.launch(child, function, arguments, writer, threads)
    except (ProcessExitedException, ProcessRaisedException) as error:
        if failures:
            raise failures[0] from None
        if isinstance(error, ProcessExitedException):
            raise CasemateError(f"training ended early, {error}: free some memory and go on with --resume") from None
        raise
    if failures:
        raise failures[0]
    return card


def _child(
    fabric: lightning_fabric.Fabric, function: Function, arguments: tuple[Any, ...], writer: Connection, threads: int
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    try:
        with _quiet():
            return function(fabric, *arguments, lambda row, total: writer.send((row, total)))
    except CasemateError as error:
        writer.send(str(error))
        raise
    except KeyboardInterrupt:
        # torch takes an interrupted process for one that is done, and its launcher would wait for a result for good.
        sys.exit(130)


@contextlib.contextmanager
def _relaying(observe: Observer | None, failures: list[Exception]) -> Iterator[Connection]:
    """An end of a pipe for the processes: `observe` is told the rows they send, `failures` gets their sentences."""
    reader, writer = multiprocessing.get_context("spawn").Pipe(duplex=False)
    relay = threading.Thread(target=_relay, args=(reader, observe, failures))
    relay.start()
    try:
        yield writer
    finally:
        # The processes are gone by now; without this end, too, the relay has read all there is.
        writer.close()
        relay.join()
        reader.close()


def _relay(reader: Connection, observe: Observer | None, failures: list[Exception]) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = reader.recv()
            if isinstance(message, str):
                failures.append(CasemateError(message))
            elif observe is not None and not failures:
                try:
                    observe(*message)
                except Exception as error:  # raised in the caller's thread, once training is over
                    failures.append(error)


@contextlib.contextmanager
def _ending_children() -> Iterator[None]:
    """An exception here, Ctrl-C above all, ends the processes that were started in the meantime."""
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
            process.join()
        raise


@contextlib.contextmanager
def _same_environment(name: str) -> Iterator[None]:
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the two libraries log about starting and ending processes is not for the user; their errors are."""
    levels = {"lightning_fabric": logging.WARNING, "torch.multiprocessing.spawn": logging.ERROR}
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = {logger: logger.level for logger in loggers}
    try:
        for logger, level in loggers.items():
            logger.setLevel(level)
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
