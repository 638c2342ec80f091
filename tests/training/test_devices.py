"""Two processes on this machine. Starting them takes seconds, so one run is asked for all that it can tell."""

import contextlib
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_toys import QUICK, fails_on_the_second, log_of, quick, train_in_this_process, weights_of

from casemate.errors import CasemateError
from casemate.training.folder import claimed
from casemate.training.launch import Devices, launch
from casemate.training.train import STATE, Settings, train

RECIPE = {
    "objective": {"kind": "adversarial", "n_steps": 2},
    "optimiser": {"kind": "sgd", "lr": 0.02},
    "average": 0.9,
    "augment": "shift",
    "epochs": 3,
}
TWO = Settings(devices=2, accelerator="cpu", precision="float32")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@dataclass
class Told:
    """What a run on two processes left, said and changed."""

    folder: Path
    card: dict[str, Any]
    heard: list[tuple[Mapping[str, Any], int]]
    printed: str
    before: tuple[object, ...]
    after: tuple[object, ...]


def circumstances() -> tuple[object, ...]:
    state = torch.get_rng_state().numpy().tobytes()
    levels = [logging.getLogger(name).level for name in ("lightning_fabric", "torch.multiprocessing.spawn")]
    return state, torch.get_num_threads(), dict(os.environ), levels, multiprocessing.active_children()


@contextlib.contextmanager
def printed_into(path: Path) -> Iterator[None]:
    """All that this process and its children print goes to `path`."""
    kept = [os.dup(stream) for stream in (1, 2)]
    with path.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            yield
        finally:
            for stream, before in zip((1, 2), kept, strict=True):
                os.dup2(before, stream)
                os.close(before)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("two")
    heard: list[tuple[Mapping[str, Any], int]] = []
    before = circumstances()
    with printed_into(folder / "printed"):
        card = train(quick(**RECIPE), folder / "run", TWO, observe=lambda row, total: heard.append((row, total)))
    return Told(folder / "run", card, heard, (folder / "printed").read_text(), before, circumstances())


def test_two_processes_train_what_one_does(told: Told, tmp_path: Path) -> None:
    train(quick(**RECIPE), tmp_path, Settings(accelerator="cpu", precision="float32"))
    assert told.card["devices"] == 2
    # Batches, keys and adversarial images are the same. The gradient of a batch is summed in another order, which is
    # about 1e-7 of it after rounding and, where the sign of an input gradient turns, a pixel of an image. A wrong
    # batch, key or mean of the two shares moves the weights by a step, 1e-3 and more.
    two = load_file(told.folder / "model.safetensors")
    for name, weight in load_file(tmp_path / "model.safetensors").items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-4)
    for one, both in zip(log_of(tmp_path), log_of(told.folder), strict=True):
        assert (one["kind"], one["step"]) == (both["kind"], both["step"])
        for name in ("loss", "clean_accuracy", "attacked_accuracy"):
            # One of the 50 images held out may tip over.
            assert one.get(name, 0) == pytest.approx(both.get(name, 0), abs=0.021)


def test_the_caller_hears_of_every_line_and_nothing_else(told: Told) -> None:
    assert [row | {"seconds": 0} for row, _ in told.heard] == [row | {"seconds": 0} for row in log_of(told.folder)]
    assert {total for _, total in told.heard} == {30}
    assert told.printed == ""
    assert told.before == told.after
    assert {path.name for path in told.folder.iterdir()} == {"card.json", "log.jsonl", "model.safetensors"}


def test_when_the_caller_is_killed_the_processes_end_and_the_run_goes_on_to_the_same_bits(
    told: Told, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["casemate.training.train"])
    arguments = (QUICK | RECIPE, str(tmp_path), 0.0, 2)
    process = context.Process(target=train_in_this_process, args=(*arguments, 7))
    process.start()
    process.join()
    assert process.exitcode == -9
    wait_until_unclaimed(tmp_path)
    assert (tmp_path / STATE).exists()
    process = context.Process(target=train_in_this_process, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert weights_of(tmp_path) == weights_of(told.folder)
    assert log_of(tmp_path) == log_of(told.folder)


def wait_until_unclaimed(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with claimed(folder):
                return
        except CasemateError:
            assert time.monotonic() < deadline, "the processes outlive the caller"
            time.sleep(0.05)


def test_the_error_of_one_process_ends_all_and_is_the_callers(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(CasemateError, match="^the second has had enough$"):
        launch(fails_on_the_second, tmp_path, devices=Devices(2, "cpu", mixed=False), observe=None)
    assert time.monotonic() - start < 200
    assert not multiprocessing.active_children()
