"""Pairs of networks: the images both get right, and what happens without data or without sense."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from paper_toys import small_run

from casemate import data
from casemate.errors import CasemateError
from casemate.papers.item import Run
from casemate.papers.madry2018 import dimension, figure4, figure6
from casemate.papers.madry2018 import pair as pairs


@pytest.mark.usefixtures("_no_cifar10")
def test_the_images_are_the_first_that_both_networks_get_right(toys: Path) -> None:
    (pair,), _ = pairs.open_pairs(small_run(toys), 5)
    digits = data.load("digits-sample", "test", limit=pairs.AMONG)
    right = torch.stack(
        [network.model(digits.images).argmax(dim=1) == digits.labels for network in pair.networks.values()]
    ).all(dim=0)
    assert pair.index.tolist() == right.nonzero().squeeze(1)[:5].tolist()
    assert torch.equal(pair.x, digits.images[pair.index])
    assert torch.equal(pair.y, digits.labels[pair.index])
    assert str(pair.threat) == "linf:0.1"


@pytest.mark.usefixtures("_no_cifar10")
def test_networks_that_learnt_nothing_are_refused(toys: Path) -> None:
    with pytest.raises(CasemateError, match=r"where 501 are needed"):
        pairs.open_pairs(small_run(toys), 501)


@pytest.mark.parametrize("make", [lambda run: pairs.open_pairs(run, 1), figure4.make, figure6.make, dimension.make])
def test_the_full_setting_asks_for_all_data_before_a_network_is_trained(
    make: Callable[[Run], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(name: str, split: str = "test", *, limit: int | None = None) -> None:
        asked.append(name)
        if name == "cifar10":
            raise CasemateError("cifar10: no usable file")

    def train(name: str) -> None:
        raise AssertionError(f"{name} was opened before the data were asked for")

    monkeypatch.setattr(pairs.data, "load", load)
    with pytest.raises(CasemateError, match="no usable file"):
        make(Run("full", 0, train))  # type: ignore[arg-type]
    assert asked == ["mnist", "cifar10"]


def test_data_are_at_hand_only_where_their_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASEMATE_DATA", str(tmp_path))
    monkeypatch.setenv("CASEMATE_CACHE", str(tmp_path / "cache"))
    assert pairs.at_hand("digits-sample")
    assert not pairs.at_hand("cifar10")
