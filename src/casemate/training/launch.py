"""The processes of a training run: this one alone, several that are started here, or those of torchrun or SLURM."""

import contextlib
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import lightning_fabric
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from casemate.errors import CasemateError
from casemate.malloc import keep_freed_memory
from casemate.training.log import Observer

# Called in every process with its Fabric, the arguments and the observer, which is None where there is nobody to tell.
Function = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Devices:
    """`count` devices of the kind `accelerator`; `mixed` is mixed precision in bfloat16."""

    count: int
    accelerator: str
    mixed: bool

    def fabric(self, *plugins: Any) -> lightning_fabric.Fabric:
        try:
            return lightning_fabric.Fabric(
                accelerator=self.accelerator,
                devices=self.count,
                strategy="auto" if self.count == 1 else "ddp",
                precision="bf16-mixed" if self.mixed else "32-true",
                plugins=list(plugins),
            )
        except (RuntimeError, ValueError, MisconfigurationException) as error:
            reason = " ".join(str(error).split())
            raise CasemateError(f"cannot train on {self.count} x {self.accelerator} here: {reason}") from None


def launch(function: Function, *arguments: Any, devices: Devices, observe: Observer | None) -> dict[str, Any]:
    """What `function(fabric, *arguments, observe)` returns in the first of as many processes as there are devices.

    `observe` is never sent to another process, so it may be any callable: where the processes are started here, it
    is called in this one, in a thread of its own. Raises `CasemateError` where the devices are not there and, from
    whichever process raised it, the one of `function`.
    """
    # Under torchrun or SLURM the processes are there already.
    if devices.count > 1 and not (TorchElasticEnvironment.detect() or SLURMEnvironment.detect()):
        return _spawn(function, arguments, devices, observe)
    with _quiet():
        fabric = devices.fabric()
        card: dict[str, Any] = fabric.launch(function, *arguments, observe)
        return card


def _spawn(
    function: Function, arguments: tuple[Any, ...], devices: Devices, observe: Observer | None
) -> dict[str, Any]:
    relay = _Relay(observe)
    threads = max(1, torch.get_num_threads() // devices.count)
    try:
        with _quiet(), relay.listening() as writer, _ending_children():
            start_processes(
                _child,
                args=(function, arguments, devices, writer, threads, find_free_network_port()),
                nprocs=devices.count,
                start_method="spawn",
            )
    except (ProcessExitedException, ProcessRaisedException) as error:
        if relay.failures:
            raise relay.failures[0] from None
        if isinstance(error, ProcessExitedException):
            raise CasemateError(f"training ended early, {error}: free some memory and go on with --resume") from None
        raise
    if relay.failures:
        raise relay.failures[0]
    assert relay.card is not None
    return relay.card


def _child(
    rank: int,
    function: Function,
    arguments: tuple[Any, ...],
    devices: Devices,
    writer: Connection,
    threads: int,
    port: int,
) -> None:
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(threads)
    keep_freed_memory()
    try:
        with _quiet():
            fabric = devices.fabric(LightningEnvironment())
            card = fabric.launch(function, *arguments, lambda row, total: writer.send((row, total)))
        if rank == 0:
            writer.send(card)
    except CasemateError as error:
        writer.send(str(error))
        raise
    except KeyboardInterrupt:
        # torch would take an interrupted process for one that is done.
        sys.exit(130)


@dataclass
class _Relay:
    """Listens to the processes: rows of the log, for `observe`; the sentence of an error; at last, the card."""

    observe: Observer | None
    card: dict[str, Any] | None = None
    failures: list[Exception] = field(default_factory=list)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Connection]:
        """The end of a pipe that the processes write to; when this closes they must be gone, and all is heard."""
        reader, writer = multiprocessing.get_context("spawn").Pipe(duplex=False)
        thread = threading.Thread(target=self._listen, args=(reader,))
        thread.start()
        try:
            yield writer
        finally:
            writer.close()
            thread.join()
            reader.close()

    def _listen(self, reader: Connection) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = reader.recv()
                if isinstance(message, dict):
                    self.card = message
                elif isinstance(message, str):
                    self.failures.append(CasemateError(message))
                elif self.observe is not None and not self.failures:
                    try:
                        self.observe(*message)
                    except Exception as error:  # raised in the caller's thread, once training is over
                        self.failures.append(error)


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
def _quiet() -> Iterator[None]:
    """What the two libraries log about starting and ending processes is not for the user; their errors are."""
    levels = {"lightning_fabric": logging.WARNING, "torch.multiprocessing.spawn": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in levels}
    try:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
