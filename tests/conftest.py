"""Shapes and types of the core are checked while the tests run, and chance and threads are fixed.

The hook must stand before the first import of casemate. `casemate.gradients` is left out: its inner functions would be
decorated again on every call, five times the cost of a gradient; its tests check shapes and dtypes themselves. The
rooms outside the core are left out because what they refuse in a sentence of their own is often of the wrong type, and
`classifier`, `models` and `testing.models` because networks are traced with proxies that are no tensors.
"""

import random

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

CHECKED = (
    "threat", "losses", "rng", "attacks",
    *(f"testing.{name}" for name in ("attack", "certifier", "conformance", "defence", "planted", "threat")),
)  # fmt: skip

# An int is a float, as in L1(12).
install_import_hook(
    [f"casemate.{room}" for room in CHECKED],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

# The same examples every time; times vary too much on shared machines for a deadline.
settings.register_profile("casemate", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("casemate")


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search in "auto" is in float32: on a processor with bfloat16 a measurement, which noise can tip, would decide.

    Tests of the choice put the measurement back; tests that start processes of their own name the precision.
    """
    monkeypatch.setattr("casemate.precision._may_be_faster_in_bfloat16", lambda device: False)


@pytest.fixture
def _in_eights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are padded as on a processor without AVX-512, for tests that count what is computed."""
    monkeypatch.setattr("casemate.gradients.BATCH_MULTIPLE", 8)
