"""SIGKILL at random moments: the run that goes on ends with the bits, and the log, of one that was left in peace."""

import multiprocessing
import random
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from training_toys import QUICK, log_of, train_in_this_process, weights_of

from casemate.training.train import LOG, STATE

# One import for all the processes, which are forked from it.
START = multiprocessing.get_context("forkserver")
START.set_forkserver_preload(["casemate.training.train"])
N_KILLS = 4

RUNS: dict[str, dict[str, Any]] = {
    "adam with a weight average": {
        "objective": {"kind": "adversarial", "n_steps": 2},
        "model": {"name": "madry-mnist", "arguments": {"scale": 1}},
        "average": 0.9,
    },
    "momentum with batch normalisation and dropout": {
        "objective": {"kind": "fast", "method": "n-fgsm"},
        "model": {"name": "toy"},
        "optimiser": {"kind": "sgd", "lr": 0.02, "weight_decay": 5e-4},
        "augment": "crop-flip",
    },
    "trades with all of it, stopped by patience": {
        "objective": {"kind": "trades", "n_steps": 1, "warm_up": 0.5},
        "model": {"name": "toy"},
        "average": 0.9,
        "augment": "shift",
        "check": {"n": 50, "n_steps": 2, "patience": 2},
    },
}


def start(run: dict[str, Any], folder: Path, save_every: float) -> ForkServerProcess:
    process = START.Process(target=train_in_this_process, args=(QUICK | run, str(folder), save_every))
    process.start()
    return process


def finish(run: dict[str, Any], folder: Path, save_every: float) -> None:
    process = start(run, folder, save_every)
    process.join()
    assert process.exitcode == 0


def kill_after(process: ForkServerProcess, log: Path, n_lines: int, chance: random.Random) -> None:
    """SIGKILL a little after the log has grown by so many lines."""
    before = None
    while process.is_alive():
        n = len(log.read_bytes().splitlines()) if log.exists() else 0
        before = n if before is None else min(before, n)  # it is cut back when the run goes on
        if n - before >= n_lines:
            break
        time.sleep(0.002)
    time.sleep(chance.random() * 0.05)
    process.kill()
    process.join()


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_again_and_again_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    run, chance = {"epochs": 6} | RUNS[name], random.Random(name)
    finish(run, tmp_path / "whole", save_every=1e9)
    folder, n_resumed = tmp_path / "killed", 0
    for _ in range(N_KILLS):
        n_resumed += (folder / STATE).exists()
        process = start(run, folder, save_every=0.02 * chance.random())
        kill_after(process, folder / LOG, chance.randint(2, 14), chance)
    finish(run, folder, save_every=0.02)
    assert weights_of(folder) == weights_of(tmp_path / "whole")
    assert log_of(folder) == log_of(tmp_path / "whole")
    assert {path.name for path in folder.iterdir()} == {"card.json", "log.jsonl", "model.safetensors"}
    assert n_resumed >= 2
