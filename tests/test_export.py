"""Classifiers as ONNX files: what ONNX Runtime and our own reader make of them, and what is refused."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from casemate import checkpoint, models
from casemate.bounds import IBP
from casemate.cli import app
from casemate.defences import ResizePad
from casemate.errors import CasemateError
from casemate.models.from_onnx import read_network
from casemate.threat import Linf
from casemate.vnn.export import write_network


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 1, 28, 28)


def trained_a_little(name: str, **arguments: object) -> nn.Module:
    """With running statistics that are not those it starts with."""
    torch.manual_seed(0)
    network = models.build(name, **arguments)
    network.train()(torch.rand(16, 1, 28, 28))
    return network.eval()


@pytest.mark.parametrize("name", ["gowal-small", "diffai-ffnn", "gowal-medium"])
def test_what_is_written_is_read_as_the_same_classifier(tmp_path: Path, images: Tensor, name: str) -> None:
    network = trained_a_little(name, norm=True)
    difference = write_network(network, tmp_path / "x.onnx", images)
    read, shape = read_network(tmp_path / "x.onnx")
    assert shape == (1, 28, 28)
    logits = network(images).detach()
    torch.testing.assert_close(read(images), logits, rtol=1e-4, atol=1e-5)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(["logits"], {"image": images.numpy()})
    assert float((torch.from_numpy(answer) - logits).abs().max()) == pytest.approx(difference, abs=1e-5)
    y = logits.argmax(dim=1)
    ours, theirs = (IBP().certify(model, images, y, Linf(0.001)).margin for model in (network, read))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_what_is_written_is_opened_and_audited(tmp_path: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained_a_little("gowal-small", norm=True)
    write_network(network, tmp_path / "x.onnx", images)
    monkeypatch.chdir(tmp_path)
    opened = checkpoint.open_model("x.onnx")
    assert not opened.model.training
    torch.testing.assert_close(opened.model(images), network(images), rtol=1e-4, atol=1e-5)
    assert opened.sha256 == checkpoint.open_model("x.onnx").sha256
    with pytest.raises(CasemateError, match="has weights of its own"):
        checkpoint.open_model("x.onnx", weights=tmp_path / "w.safetensors")
    arguments = ["--data", "digits-sample", "--threat", "linf:0.01", "--limit", "20", "--json"]
    certified = CliRunner().invoke(app, ["certify", "x.onnx", *arguments, "--certifier", "ibp"])
    assert certified.exit_code == 0, certified.output
    said = CliRunner().invoke(app, ["audit", "x.onnx", *arguments, "--run", "run", "--no-curves", "--preset", "quick"])
    assert said.exit_code == 0, said.output
    assert CliRunner().invoke(app, ["check", "run"]).exit_code == 0


def test_a_network_with_branches_is_written_too(tmp_path: Path, images: Tensor) -> None:
    network = trained_a_little("diffai-resnet-tiny")
    assert write_network(network, tmp_path / "x.onnx", images) < 1e-3
    with pytest.raises(CasemateError, match="not a chain of layers"):
        read_network(tmp_path / "x.onnx")


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, images: Tensor) -> None:
    path = tmp_path / "x.onnx"

    class Otherwise(nn.Module):
        """In ONNX it is what it was for the image that it was exported with."""

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10] * x.detach().sum().item()

    for model, sentence in (
        (Otherwise(), "ONNX Runtime answers otherwise"),
        (nn.Sequential(ResizePad(), models.build("small-cnn")), "draws at random"),
    ):
        with pytest.raises(CasemateError, match=sentence):
            write_network(model, path, images)
        assert list(tmp_path.iterdir()) == []
    path.write_text("mine")
    with pytest.raises(CasemateError, match="exists already"):
        write_network(trained_a_little("small-cnn"), path, images)
    assert path.read_text() == "mine"


def test_export_and_certify_on_the_command_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    card = {"architecture": "gowal-small", "arguments": {"width": 4}, "threat": "linf:0.1"}
    checkpoint.save(tmp_path / "network", models.build("gowal-small", width=4), card)
    out = tmp_path / "x.onnx"
    command = ["export", str(tmp_path / "network"), str(out), "--data", "digits-sample", "--json"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    assert '"largest_difference"' in found.output
    pixel = "(declare-const X_{0} Real)\n(assert (>= X_{0} 0))\n(assert (<= X_{0} 0.01))\n"
    inputs = "".join(pixel.format(i) for i in range(784))
    outputs = "".join(f"(declare-const Y_{i} Real)\n" for i in range(10))
    (tmp_path / "p.vnnlib").write_text(inputs + outputs + "(assert (>= Y_0 1000))\n")
    decided = CliRunner().invoke(app, ["certify", str(out), "--vnnlib", str(tmp_path / "p.vnnlib")])
    assert decided.exit_code == 0, decided.output
    assert "unsat" in decided.output
