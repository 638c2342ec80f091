"""A network with batch normalisation and dropout, known as "toy"."""

import pytest
from training_toys import with_norm_and_dropout

from casemate import models


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.ARCHITECTURES, "toy", with_norm_and_dropout)
