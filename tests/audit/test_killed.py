"""SIGKILL at random moments, ten times, then a resume: the same verdicts as a run that nothing disturbed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from audit_toys import STAGES, THREAT, assert_same_run, convolutional, dataset

from casemate.audit import audit, check

# One process imports everything; each attempt is a fork of it, so that ten of them take seconds. It computes nothing
# itself, as threads do not survive a fork.
SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from audit_toys import STAGES, THREAT, convolutional, dataset
from casemate.audit import audit

run, chance, kills = Path(sys.argv[1]), random.Random(0), 0
done = lambda: {path.name: path.read_bytes() for path in (run / "verdicts").glob("part-*.parquet")}

def attempt():
    pid = os.fork()
    if not pid:
        model = convolutional()
        data = dataset(model, 120)
        audit(model, data, THREAT, run=run, stages=STAGES, curves=False, diagnosis=False, block_size=2, resume=True,
              precision="float32")
        os._exit(0)
    return pid

for number in range(10):
    before = done()
    pid = attempt()
    # The first is killed before it stores anything, perhaps before it has a manifest.
    wanted = len(before) + chance.randint(1, 2) if number else 0
    while len(done()) < wanted and not os.waitpid(pid, os.WNOHANG)[0]:
        time.sleep(0.002)
    time.sleep(chance.random() * 0.02)
    os.kill(pid, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    after = done()
    assert all(after[name] == content for name, content in before.items()), "a stored block changed"
print(kills, len(done()))
assert os.waitpid(attempt(), 0)[1] == 0
"""


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path):
    model = convolutional()
    data = dataset(model, 120)
    # Two runs that measure which precision is faster may well find different ones.
    quiet = tmp_path / "quiet"
    audit(model, data, THREAT, run=quiet, stages=STAGES, curves=False, diagnosis=False, precision="float32")
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "killed")]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    kills, blocks = map(int, finished.stdout.split())
    assert kills == 10
    assert 9 <= blocks < 60, "the kills should fall in the middle of the run"
    assert_same_run(tmp_path / "killed", quiet)
    assert check(tmp_path / "killed", model=model, data=data).ok
