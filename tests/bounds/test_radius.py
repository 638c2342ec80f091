"""Certified radii by bisection: closed forms, and what makes them true whatever the certifier does."""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from casemate import checkpoint, models, rng
from casemate.attacks import PGD, evaluate
from casemate.bounds import CROWN, IBP, Bisection, Certificate
from casemate.cli import app
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.threat import L2, Linf, Threat


def linear(n: int = 12) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    # Far from the border of the box, so that the whole ball is inside.
    x = 0.4 + 0.2 * torch.rand(n, 1, 6, 6)
    return model, x, model(x).argmax(dim=1)


def closed_form(model: nn.Module, x: Tensor, y: Tensor, order: float) -> Tensor:
    layer = model[1]
    logits = model(x).double()
    radii = []
    for image, label in enumerate(y.tolist()):
        rivals = [rival for rival in range(3) if rival != label]
        differences = [(layer.weight[label] - layer.weight[rival]).double().norm(order) for rival in rivals]
        radii.append(
            min((logits[image, label] - logits[image, r]) / d for r, d in zip(rivals, differences, strict=True))
        )
    return torch.stack(radii).detach()


@pytest.mark.parametrize(("norm", "dual"), [(Linf, 1), (L2, 2)])
def test_radii_of_a_linear_classifier(norm: type[Linf] | type[L2], dual: float) -> None:
    model, x, y = linear()
    exact = closed_form(model, x, y, dual)
    threat = norm(float(exact.median()) * 1.01)
    found = Bisection(CROWN(), halvings=10).certify(model, x, y, threat)
    reachable = exact.clamp(max=threat.eps)
    assert (found.radius <= reachable + 1e-6).all()
    assert (reachable - found.radius <= threat.eps / 2**10 + 1e-5).all()
    assert 0 < found.holds.sum() < len(x)
    assert (found.radius == threat.eps).equal(found.holds)


def test_a_wrong_answer_has_no_radius_and_no_other_image_matters() -> None:
    model, x, y = linear()
    y = y.clone()
    y[::3] = (y[::3] + 1) % 3
    certifier = Bisection(IBP())
    found = certifier.certify(model, x, y, Linf(0.1)).radius
    assert (found[::3] == 0).all()
    assert (found[1::3] > 0).all()
    order = torch.randperm(len(x))
    assert certifier.certify(model, x[order], y[order], Linf(0.1)).radius.equal(found[order])
    parts = [
        certifier.certify(model, part, label, Linf(0.1)).radius
        for part, label in zip(x.split(5), y.split(5), strict=True)
    ]
    assert torch.cat(parts).equal(found)


def test_no_attack_gets_through_inside_the_radius() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    x = torch.rand(8, 1, 6, 6)
    y = model(x).argmax(dim=1)
    radii = Bisection(IBP()).certify(model, x, y, Linf(0.2)).radius
    for image, radius in enumerate(radii.tolist()):
        if radius > 0:
            at = slice(image, image + 1)
            found = evaluate(Engine(model), x[at], y[at], Linf(radius), PGD(n_steps=30), seed=0)
            assert found.attacked_accuracy == 1


@dataclass
class Fickle:
    """Proves at a few radii alone, and remembers what it was asked."""

    at: tuple[float, ...]
    asked: list[tuple[float, bool]] = field(default_factory=list)

    def certify(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, keys: rng.Keys | None = None
    ) -> Certificate:
        holds = torch.full((len(x),), threat.eps in self.at)
        self.asked.append((threat.eps, bool(holds.all())))
        zeros = torch.zeros(len(x), dtype=torch.float64)
        return Certificate(holds, zeros, threat.eps * holds.double())


def test_only_a_radius_that_was_proved_is_given() -> None:
    model, x, y = linear(1)
    fickle = Fickle((0.25, 0.375))
    found = Bisection(fickle, halvings=4).certify(model, x, y, Linf(1.0)).radius
    assert found.item() == max(eps for eps, proved in fickle.asked if proved) == 0.375
    assert len(fickle.asked) == 5
    assert Bisection(Fickle(()), halvings=4).certify(model, x, y, Linf(1.0)).radius.item() == 0
    with pytest.raises(CasemateError, match="1 to 30 halvings"):
        Bisection(IBP(), halvings=0)


def test_radii_on_the_command_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    card = {"architecture": "small-cnn", "arguments": {"width": 4}, "threat": "linf:0.1"}
    checkpoint.save(tmp_path / "network", models.build("small-cnn", width=4), card)
    command = ["certify", str(tmp_path / "network"), "--data", "digits-sample", "--limit", "5", "--threat", "linf:0.1"]
    found = CliRunner().invoke(app, [*command, "--radius", "--json", "--out", str(tmp_path / "radii.csv")])
    assert found.exit_code == 0, found.output
    table = pl.read_csv(tmp_path / "radii.csv")
    assert table.columns == ["index", "certified", "margin", "radius"]
    assert table["radius"].is_between(0, 0.1).all()
    assert "median_radius" in found.output
    assert "median_radius" not in CliRunner().invoke(app, [*command, "--json"]).output
