"""A diagnosis finds every planted fault, and none in networks that hide nothing."""

import json
from pathlib import Path

import pytest
import torch
from audit_toys import THREAT, convolutional, dataset
from torch import nn

from casemate import PGD, Linf, audit, data, image_keys
from casemate.audit.diagnosis import FAILURES, diagnose, evaluation_of
from casemate.audit.symptoms import Symptom
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.testing import PLANTED_DEFENCES, PlantedDefence, models

BALL = Linf(0.2)
N_SHOWN = 40
# What an engine refuses before anything is diagnosed, and says why.
REFUSED = {"probabilities": "values before the softmax", "thermometer code": "declare a surrogate on the layer"}


def train(robust: bool) -> nn.Module:
    """A minute network for the digits, in seconds."""
    digits = data.load("digits-sample", "train")
    network = models.seeded(
        lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10))
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    search = PGD(n_steps=3)
    for part in range(240):
        at = torch.arange(64 * part, 64 * (part + 1)) % len(digits)
        x, y = digits.images[at], digits.labels[at]
        if robust:
            x = search(network, x, y, Linf(BALL.eps * min(1, (part + 1) / 120)), keys=image_keys(part, at))
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def natural() -> nn.Module:
    return train(robust=False)


def diagnosed(model: nn.Module, seed: int = 0) -> tuple[str, dict[str, str]]:
    """The verdict, and the status of each check."""
    shown = data.load("digits-sample", "test", limit=N_SHOWN)
    found = diagnose(Engine(model, precision="float32"), shown.images, shown.labels, BALL, seed)
    assert 0 < found["n"] <= N_SHOWN
    return found["evaluation"], {symptom["id"]: symptom["status"] for symptom in found["symptoms"]}


@pytest.mark.parametrize("planted", PLANTED_DEFENCES, ids=lambda planted: planted.name)
def test_planted_defences_are_caught_by_a_check_that_they_are_known_to_trip(
    planted: PlantedDefence, natural: nn.Module
) -> None:
    if planted.name in REFUSED:
        with pytest.raises(CasemateError, match=REFUSED[planted.name]):
            diagnosed(planted(natural))
        return
    _, status = diagnosed(planted(natural))
    assert any(status.get(check) in ("fail", "warn") for check in planted.trips), status


@pytest.mark.parametrize("robust", [False, True])
def test_networks_that_hide_nothing_raise_no_alarm(robust: bool, natural: nn.Module) -> None:
    network = train(robust=True) if robust else natural
    for seed in range(2):
        evaluation, status = diagnosed(network, seed)
        assert evaluation == "no failure found"
        assert "fail" not in status.values()
        assert len(status) == 16


def test_the_worst_failure_is_the_verdict() -> None:
    def failing(*ids: str) -> list[Symptom]:
        return [Symptom("G9", "warn", 0.1, ""), *(Symptom(name, "fail", 1.0, "") for name in ids)]

    assert evaluation_of(failing()) == "no failure found"
    assert evaluation_of(failing("I3", "G2")) == "masked"
    assert evaluation_of(failing("G3", "G8", "BIN")) == "invalid"
    assert evaluation_of(failing("G6")) == "weak attack"
    everything = [name for ids in FAILURES.values() for name in ids]
    assert len(everything) == len(set(everything))


def test_a_classifier_that_is_never_right_has_no_diagnosis(natural: nn.Module) -> None:
    shown = data.load("digits-sample", "test", limit=4)
    wrong = (natural(shown.images).argmax(dim=1) + 1) % 10
    found = diagnose(Engine(natural, precision="float32"), shown.images, wrong, BALL, seed=0)
    assert found == {"n": 0, "evaluation": "no failure found", "symptoms": []}


def test_an_audit_is_diagnosed_once(tmp_path: Path) -> None:
    model = convolutional()
    images = dataset(model, 12)

    def run() -> dict[str, object]:
        return audit.audit(
            model, images, THREAT, run=tmp_path / "run", preset="quick", curves=False, resume=True
        ).as_json()

    first, file = run(), tmp_path / "run" / "diagnosis.json"
    written = json.loads(file.read_text())
    assert first["evaluation"] == written["evaluation"]
    assert first["symptoms"] == written["symptoms"] != []
    file.write_text(json.dumps({**written, "evaluation": "masked"}))
    assert run()["evaluation"] == "masked"
    file.write_text("[]")
    with pytest.raises(CasemateError, match=r"diagnosis\.json is damaged"):
        run()
