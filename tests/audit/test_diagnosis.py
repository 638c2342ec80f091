"""A diagnosis finds every planted fault, its remedies see through it, and networks that hide nothing raise no alarm."""

import json
from pathlib import Path

import pytest
import torch
from audit_toys import THREAT, convolutional, dataset
from torch import nn

from casemate import PGD, Linf, audit, data, image_keys
from casemate.audit.cascade import in_turn
from casemate.audit.diagnosis import FAILURES, FOLLOWED, Diagnosis, diagnose, evaluation_of, shown
from casemate.audit.presets import quick
from casemate.audit.remedies import Mended, Plan, mended
from casemate.audit.symptoms import Symptom
from casemate.audit.symptoms.answers import answers_probabilities
from casemate.audit.symptoms.binarization import binarization
from casemate.audit.symptoms.slopes import unusable
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.testing import PLANTED_DEFENCES, PlantedDefence, models

# Where nothing is left of the twin, and where what a defence moves is little beside the radius.
BALL = Linf(0.3)
SHOWN = data.load("digits-sample", "test", limit=100)
N_DIAGNOSED = 32
# Indicators of attack failure that are checks by another name.
SAME_CHECK = {"I1": "G7", "I5": "G2", "I6": "G3"}


def train(robust: bool, seed: int = 0) -> nn.Module:
    """A minute network for the digits, in seconds."""
    digits = data.load("digits-sample", "train")
    network = models.seeded(
        lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10)),
        seed,
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    search = PGD(n_steps=3)
    for part in range(240):
        at = torch.arange(64 * part, 64 * (part + 1)) % len(digits)
        x, y = digits.images[at], digits.labels[at]
        if robust:
            x = search(network, x, y, Linf(0.2 * min(1, (part + 1) / 120)), keys=image_keys(part, at))
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def natural() -> nn.Module:
    return train(robust=False)


def diagnosed(model: nn.Module, seed: int = 0, ball: Linf = BALL) -> Diagnosis:
    x, y = SHOWN.images[:N_DIAGNOSED], SHOWN.labels[:N_DIAGNOSED]
    found = diagnose(Engine(model, precision="float32"), x, y, ball, seed)
    assert 0 < found.n <= N_DIAGNOSED
    return found


def mended_for(model: nn.Module) -> Mended:
    """As an audit does that is handed the model and nothing else."""
    x, y = SHOWN.images[:N_DIAGNOSED], SHOWN.labels[:N_DIAGNOSED]
    start = Plan(logarithm=answers_probabilities(model, x[:2]))
    return mended(model, lambda plan: plan.engine(model, precision="float32"), x, y, BALL, 0, start=start)


def left(engine: Engine) -> int:
    """How many of the 100 images the quick cascade leaves."""
    *_, standing = in_turn(engine, SHOWN.images, SHOWN.labels, BALL, quick(BALL, 10), 0)
    return int(standing.sum())


def tripped(model: nn.Module, stated: set[str]) -> set[str]:
    """The checks that fail or warn of the classifier as it is, those that come after a failing one too."""
    x, y = SHOWN.images[:N_DIAGNOSED], SHOWN.labels[:N_DIAGNOSED]
    engine = Engine(model, precision="float32")
    # Attacks need some gradient, be it wrong.
    found = list(diagnose(engine, x, y, BALL, 0, stop_early=not stated & {"G2", "G3", "G4"}).symptoms)
    subject = shown(engine, x, y, BALL, 0, N_DIAGNOSED)
    if "G7" in stated:
        found.append(unusable(subject))
    if "BIN" in stated:
        found.append(binarization(subject, FOLLOWED))
    return {symptom.id for symptom in found if symptom.status in ("fail", "warn")}


@pytest.mark.parametrize("planted", PLANTED_DEFENCES, ids=lambda planted: planted.name)
def test_planted_defences_are_caught_and_fall_to_within_two_points_of_their_twin(
    planted: PlantedDefence, natural: nn.Module
) -> None:
    model = planted(natural)
    found = mended_for(model)
    seen = [symptom for remedy in found.applied for symptom in remedy.symptoms] + list(found.diagnosis.symptoms)
    caught = {symptom.id for symptom in seen if symptom.status in ("fail", "warn")}
    stated = {SAME_CHECK.get(check, check) for check in planted.trips}
    assert caught & stated, caught
    # Probabilities are refused before anything else is asked.
    assert stated == {"G12"} or stated <= (here := tripped(model, stated)), here
    assert left(found.plan.engine(model, precision="float32")) <= left(Engine(natural, precision="float32")) + 2
    # What is left of its symptoms is that it has them, and not that the attacks are fooled.
    assert found.diagnosis.evaluation == "no failure found", found.diagnosis.symptoms


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("robust", [False, True])
def test_networks_that_hide_nothing_raise_no_alarm(robust: bool, seed: int) -> None:
    found = diagnosed(train(robust, seed), seed, Linf(0.2))
    assert found.evaluation == "no failure found"
    status = {symptom.id: symptom.status for symptom in found.symptoms}
    assert "fail" not in status.values()
    assert len(status) == 18
    # Every point that is planted is found; fewer than 35 images are no pass.
    assert found.symptoms[-1].id == "BIN"
    assert found.symptoms[-1].statistic == 1


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
    x = SHOWN.images[:4]
    wrong = (natural(x).argmax(dim=1) + 1) % 10
    found = diagnose(Engine(natural, precision="float32"), x, wrong, BALL, seed=0)
    assert found == Diagnosis(0, "no failure found", ())


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


def test_what_can_be_refused_is_refused_before_the_diagnosis(tmp_path: Path) -> None:
    model = convolutional()
    told: list[audit.Progress] = []
    wrong = [{"preset": "hard"}, {"block_size": 0}, {"proofs": 2 * audit.proofs_by_names(["ibp"])}]
    for settings in wrong:
        with pytest.raises(CasemateError, match="preset|block size|certifiers"):
            audit.audit(model, dataset(model, 12), THREAT, run=tmp_path / "run", progress=told.append, **settings)  # type: ignore[arg-type]
    assert not told
    assert not (tmp_path / "run").exists()


def audited(model: nn.Module, folder: Path, **changes: object) -> audit.Summary:
    images = data.load("digits-sample", "test", limit=24)
    return audit.audit(
        model, images, BALL, run=folder, preset="quick", curves=False, proofs=(), precision="float32", **changes
    )


@pytest.mark.parametrize("name", ["probabilities", "input noise", "zero gradient", "thermometer code"])
def test_an_audit_of_a_planted_defence_can_be_resumed_and_checked(
    name: str, natural: nn.Module, tmp_path: Path
) -> None:
    (planted,) = (planted for planted in PLANTED_DEFENCES if planted.name == name)
    model = planted(natural)

    def stop(progress: audit.Progress) -> None:
        if progress.done >= 16:
            raise KeyboardInterrupt

    whole = audited(model, tmp_path / "whole", block_size=7)
    assert whole.bracket.broken > 15, whole.bracket
    assert whole.remedies
    with pytest.raises(KeyboardInterrupt):
        audited(model, tmp_path / "halves", block_size=16, progress=stop)
    resumed = audited(model, tmp_path / "halves", block_size=5, resume=True)
    assert resumed.bracket == whole.bracket
    # By how much two answers of a random classifier differ is itself random.
    assert [remedy["did"] for remedy in resumed.remedies] == [remedy["did"] for remedy in whole.remedies]
    for folder in (tmp_path / "whole", tmp_path / "halves"):
        found = audit.check(folder, model=model, data=data.load("digits-sample", "test", limit=24))
        assert found.ok, found.failures


class Decisions(nn.Module):
    """One for the class and zero for the others, of an image in 8 levels: gradient and scores say nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.network((7 * x).round() / 7)
        return nn.functional.one_hot(answer.argmax(dim=1), answer.shape[1]).float()


def test_a_classifier_to_transfer_from_is_tried_and_its_gradient_is_a_way(natural: nn.Module, tmp_path: Path) -> None:
    model = Decisions(natural)
    whole = audited(model, tmp_path / "run", sources={"the twin": natural})
    assert whole.attacks[-1].name.startswith(("transfer", "Square"))
    assert "the gradient of the twin" in {way["name"] for way in whole.ways}
    assert whole.bracket.attacked_accuracy == 0
    again = audited(model, tmp_path / "run", sources={"the twin": natural}, resume=True)
    assert again.bracket == whole.bracket
    with pytest.raises(CasemateError, match=r"the twin, which is not at hand|cannot be resumed"):
        audited(model, tmp_path / "run", resume=True)
    with pytest.raises(CasemateError, match="it does not transfer from another"):
        audited(model, tmp_path / "run", sources={"the twin": natural, "another": model}, resume=True)


def test_a_source_of_other_logits_or_other_images_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    model = convolutional()
    for source, reason in (
        (nn.Sequential(convolutional(), nn.Linear(4, 3)), "has 3 logits, and the model has 4"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 4)), "the other, to transfer from, is unfit"),
    ):
        with pytest.raises(CasemateError, match=reason):
            audit.audit(model, dataset(model, 12), THREAT, run=tmp_path / "run", sources={"the other": source})
    assert not (tmp_path / "run").exists()
