"""Images with labels for objectives, and a network with batch normalisation and dropout, known as "toy"."""

import pytest
import torch
from torch import Tensor
from training_toys import with_norm_and_dropout

from casemate import models


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.ARCHITECTURES, "toy", with_norm_and_dropout)


@pytest.fixture
def x() -> Tensor:
    """Far enough from 0 and 1 for balls of up to 0.3 to be inside the box."""
    return 0.3 + 0.4 * torch.rand(16, 1, 6, 6)


@pytest.fixture
def y() -> Tensor:
    return torch.arange(16) % 2
