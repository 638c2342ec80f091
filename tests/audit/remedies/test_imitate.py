"""Learned stand-ins: what they learn leads where the classifier's own gradient would, and a run keeps them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from casemate import PGD, Linf, Transfer, checkpoint, image_keys
from casemate.audit.remedies import keep, kept
from casemate.audit.remedies.imitate import NAME, imitated, learned
from casemate.audit.remedies.plan import Plan
from casemate.defences import Thermometer
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.testing import models

SHAPE = (1, 8, 8)
THREAT = Linf(0.2)
X = 0.3 + 0.4 * models.images(64, SHAPE)
KEYS = image_keys(0, torch.arange(64))


class Undeclared(nn.Module):
    """The thermometer code without its surrogate."""

    def __init__(self) -> None:
        super().__init__()
        self.code = Thermometer(16).forward

    def forward(self, x: Tensor) -> Tensor:
        return self.code(x)


def coded() -> nn.Module:
    """A classifier of codes, to which no identity leads: the planes of about half of the pixels against the others."""
    head = nn.Linear(16 * 64, 2, bias=False)
    with torch.no_grad():
        sign = torch.randn(64, generator=torch.Generator().manual_seed(1)).sign()
        head.weight[0] = sign.repeat(16) / 64
        head.weight[1] = -head.weight[0]
    model = nn.Sequential(Undeclared(), nn.Flatten(), head)
    return model.eval()


def labelled(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(X).argmax(dim=1)


def test_a_taught_network_transfers_to_a_classifier_without_a_gradient() -> None:
    model = coded()
    y, engine = labelled(model), Engine(model, precision="float32")
    (source,) = imitated(engine, X, THREAT, seed=0)
    assert source.name == NAME
    x_adv = Transfer(source.network, PGD(loss="margin"))(model, X, y, THREAT, keys=KEYS)
    assert THREAT.contains(x_adv, X).all()
    assert (engine.logits(x_adv).argmax(dim=1) != y).float().mean() > 0.95


def test_a_layer_that_changes_the_shape_is_learnt_and_followed() -> None:
    model = coded()
    y = labelled(model)
    (way,) = learned(model, ["0"], X, THREAT, seed=0)
    stand_in = way.stand_in(model)
    torch.testing.assert_close(stand_in(X), model(X), atol=0, rtol=0)
    engine = Engine(model, precision="float32", stand_in=stand_in)
    x_adv = PGD(loss="margin")(engine, X, y, THREAT, keys=KEYS)
    assert (engine.logits(x_adv).argmax(dim=1) != y).float().mean() > 0.95
    with pytest.raises(CasemateError, match="no gradient"):
        PGD()(Engine(model, precision="float32"), X, y, THREAT, keys=KEYS)


def test_what_is_taught_depends_on_the_seed_alone() -> None:
    engine = Engine(coded(), precision="float32")
    first, again, other = (imitated(engine, X, THREAT, seed=seed)[0].sha256 for seed in (0, 0, 1))
    assert first == again != other


def test_there_is_no_small_network_for_huge_answers() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 50_000)).eval()
    assert imitated(Engine(model, precision="float32"), X, THREAT, seed=0) == ()
    assert learned(model, ["1"], X, THREAT, seed=0) == ()


def test_a_run_keeps_what_was_taught(tmp_path: Path) -> None:
    model = coded()
    (source,) = imitated(Engine(model, precision="float32"), X, THREAT, seed=0)
    (way,) = learned(model, ["0"], X, THREAT, seed=0)
    keep(tmp_path, Plan(way=way, sources=(source,)))
    found = kept(tmp_path, torch.device("cpu"))
    assert found.keys() == {source.sha256, way.sha256}
    assert all(checkpoint.fingerprint(network) == sha256 for sha256, network in found.items())
    again = Plan.from_json(Plan(way=way, sources=(source,)).as_json(), found)
    assert torch.equal(again.stand_in(model)(X), model(X))  # type: ignore[misc]
    assert torch.equal(again.sources[0].network(X), source.network(X))
    path = tmp_path / "taught" / f"{way.sha256}.safetensors"
    for content, reason in ((b"", "damaged"), (path.with_name(f"{source.sha256}.safetensors").read_bytes(), "not the")):
        path.write_bytes(content)
        with pytest.raises(CasemateError, match=reason):
            kept(tmp_path, torch.device("cpu"))


def test_a_run_without_networks_keeps_none(tmp_path: Path) -> None:
    keep(tmp_path, Plan())
    assert not list(tmp_path.iterdir())
    assert kept(tmp_path, torch.device("cpu")) == {}
