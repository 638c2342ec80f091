"""`load` and `describe`: names, splits, limits, and full MNIST where it is on this machine."""

import os
import time
from pathlib import Path

import pytest
import torch

from casemate.data import LOADERS, describe, load
from casemate.data.mnist import FASHION_MNIST, MNIST
from casemate.errors import CasemateError

DATA = os.environ.get("CASEMATE_DATA")


@pytest.mark.parametrize("name", ["imagenet", "MNIST", "", "folder", "folder:", "files:x"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    known = "digits-sample, mnist, fashion-mnist, cifar10 and folder:PATH"
    with pytest.raises(CasemateError, match=f"^there is no data set '{name}'; known are {known}$"):
        load(name)


@pytest.mark.parametrize("split", ["val", "Test", ""])
def test_an_unknown_split_is_refused(split: str) -> None:
    with pytest.raises(CasemateError, match=f"^there is no split '{split}'; a data set has train and test$"):
        load("digits-sample", split)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_1_is_refused(limit: int) -> None:
    with pytest.raises(CasemateError, match=f"^limit is {limit}, where 1 or more"):
        load("digits-sample", limit=limit)


def test_describe_lists_all_that_load_knows_and_fetches_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CASEMATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CASEMATE_DATA", str(tmp_path))
    for file in MNIST.source.files:
        (tmp_path / f"{file.name}.gz").touch()
    lines = {line.name: line for line in describe()}
    assert list(lines) == [*LOADERS, "folder:PATH"]
    assert lines["mnist"].where == str(tmp_path)
    assert lines["cifar10"].where is None
    sample = load("digits-sample", "train")
    assert (lines["digits-sample"].n_train, lines["digits-sample"].shape) == (len(sample), sample.images.shape[1:])
    assert not (tmp_path / "cache").exists()


def test_the_canonical_files_are_as_long_as_their_images() -> None:
    for loader in (MNIST, FASHION_MNIST):
        assert [file.n_bytes for file in loader.source.files] == [47_040_016, 60_008, 7_840_016, 10_008]


@pytest.mark.skipif(not DATA, reason="CASEMATE_DATA is not set")
@pytest.mark.parametrize(
    ("split", "per_class"),
    [
        ("train", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        ("test", [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    ],
)
def test_full_mnist(split: str, per_class: list[int]) -> None:
    described = {line.name: line for line in describe()}["mnist"]
    if described.where is None:
        pytest.skip("MNIST is not in CASEMATE_DATA")
    started = time.process_time()
    mnist = load("mnist", split)
    seconds = time.process_time() - started
    assert mnist.images.shape == (sum(per_class), 1, 28, 28)
    assert torch.bincount(mnist.labels).tolist() == per_class  # as counted in many publications
    assert float(mnist.images.min()) == 0
    assert float(mnist.images.max()) == 1
    assert seconds < 2  # of processor time; 0.25 s here when nothing else runs
    first = load("mnist", split, limit=7)
    assert torch.equal(first.images, mnist.images[:7])
    assert torch.equal(first.labels, mnist.labels[:7])
    # Mean and deviation of the training pixels, the numbers that MNIST is usually normalised with.
    if split == "train":
        assert round(float(mnist.images.mean()), 4) == 0.1307
        assert round(float(mnist.images.std()), 4) == 0.3081


@pytest.mark.skipif(not DATA, reason="CASEMATE_DATA is not set")
def test_the_sample_is_within_mnists_training_split_and_outside_its_test_split() -> None:
    if {line.name: line for line in describe()}["mnist"].where is None:
        pytest.skip("MNIST is not in CASEMATE_DATA")

    def rows(name: str, split: str) -> set[bytes]:
        return {image.tobytes() for image in (load(name, split).images.flatten(1) * 255).byte().numpy()}

    sample = rows("digits-sample", "train") | rows("digits-sample", "test")
    assert sample <= rows("mnist", "train")
    assert not sample & rows("mnist", "test")
