"""Toy networks, trained once for all tests of the room; CIFAR-10 counts as absent whatever this machine has."""

from pathlib import Path

import pytest
from paper_toys import small_run, write_recipes

from casemate.papers.madry2018 import pair as pairs


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `recipes` and the `networks` of the small setting and seed 0."""
    folder = tmp_path_factory.mktemp("toys")
    write_recipes(folder / "recipes")
    run = small_run(folder)
    for name in ("mnist-natural", "mnist-pgd"):
        run.network(name)
    return folder


@pytest.fixture
def _no_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "at_hand", lambda name: name != "cifar10")
