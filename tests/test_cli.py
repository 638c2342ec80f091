"""The command line as a user runs it: a process, its two streams and its exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from typer.testing import CliRunner

from casemate.cli import app, main

NETWORK = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

def probabilities():
    return nn.Sequential(network(), nn.Softmax(dim=1))

def two_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 2))

def a_thousand_classes():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 1000))

def for_colour():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 10))

def fails():
    raise RuntimeError("no such luck")
"""

AUDIT = ("--data", "digits-sample", "--threat", "linf:0.1", "--preset", "quick", "--limit", "40")


def casemate(*arguments: str | Path, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "casemate.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a refusal, which is all that is printed."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("casemate: ")
    return lines[0]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with a network of somebody else's in it."""
    (tmp_path / "mine.py").write_text(NETWORK)
    torch.manual_seed(1)
    foreign = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    safetensors.torch.save_file(foreign.state_dict(), tmp_path / "mine.safetensors")
    return tmp_path


def test_a_foreign_model_is_audited_and_checked(place: Path) -> None:
    result = casemate(
        "audit", "mine.py:network", "--weights", "mine.safetensors", *AUDIT, "--run", "run", "--json", cwd=place
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["n"] == 40 == sum(summary["verdicts"].values())
    low, high = summary["robust_accuracy_interval"]
    assert 0 <= low <= summary["attacked_accuracy"] <= high <= 1
    assert (place / "run" / "report.html").stat().st_size > 10_000
    checked = casemate("check", "run", "--json", cwd=place)
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["ok"] is True


def test_a_changed_weights_file_fails_the_check(place: Path) -> None:
    arguments = (
        "audit",
        "mine.py:network",
        "--weights",
        "mine.safetensors",
        *AUDIT,
        "--run",
        "run",
        "--no-curves",
        "--no-diagnosis",
    )
    assert casemate(*arguments, cwd=place).returncode == 0
    other = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    safetensors.torch.save_file(other.state_dict(), place / "mine.safetensors")
    checked = casemate("check", "run", cwd=place)
    assert checked.returncode == 1
    assert "fingerprint" in checked.stderr


def test_require_sets_the_exit_status(place: Path) -> None:
    arguments = ("audit", "mine.py:network", *AUDIT, "--no-curves", "--no-diagnosis")
    assert casemate(*arguments, "--run", "a", "--require", "0.99", cwd=place).returncode == 1
    assert casemate(*arguments, "--run", "b", "--require", "0", cwd=place).returncode == 0


@pytest.mark.parametrize(
    ("model", "word"),
    [
        ("mine.py:two_classes", "classes"),
        ("mine.py:for_colour", "[1, 28, 28]"),
        ("mine.py:fails", "no such luck"),
        ("mine.py:absent", "absent"),
        ("nowhere", "nowhere"),
        ("model.onnx", "cannot read model.onnx"),
    ],
)
def test_a_model_that_cannot_be_audited_is_refused(place: Path, model: str, word: str) -> None:
    assert word in refused(casemate("audit", model, *AUDIT, "--run", "run", cwd=place))
    assert not (place / "run").exists()


def test_probabilities_are_audited_by_their_logarithms_and_refused_without_a_diagnosis(place: Path) -> None:
    arguments = ("audit", "mine.py:probabilities", *AUDIT, "--run", "probable")
    assert "softmax" in refused(casemate(*arguments, "--no-diagnosis", cwd=place))
    said = casemate(*arguments, cwd=place)
    assert said.returncode == 0
    assert "remedy for G12: the logarithms of the probabilities stand for logits" in said.stdout
    assert casemate("check", "probable", cwd=place).returncode == 0


def test_more_logits_than_classes_are_audited(place: Path) -> None:
    result = casemate("audit", "mine.py:a_thousand_classes", *AUDIT, "--run", "run", "--json", cwd=place)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        (("--threat", "linf"), "linf:8/255"),
        (("--threat", "linf:-1"), "positive"),
        (("--data", "minst"), "mnist"),
        (("--split", "validation"), "train"),
        (("--preset", "extreme"), "thorough"),
        (("--precision", "float8"), "bfloat16"),
        (("--device", "tpu9"), "cpu"),
        (("--limit", "0"), "limit"),
    ],
)
def test_a_wrong_option_is_refused_with_the_right_form(place: Path, changed: tuple[str, str], word: str) -> None:
    assert word in refused(casemate("audit", "mine.py:network", *AUDIT, *changed, "--run", "run", cwd=place))


def test_a_pickle_with_code_in_it_is_refused_and_does_not_run(place: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {place / 'ran'}",)

    torch.save({"weight": Bomb()}, place / "bomb.pt")
    refused(casemate("audit", "mine.py:network", "--weights", "bomb.pt", *AUDIT, "--run", "run", cwd=place))
    assert not (place / "ran").exists()


def test_nan_weights_are_refused(place: Path) -> None:
    state = {"1.weight": torch.full((10, 784), torch.nan), "1.bias": torch.zeros(10)}
    safetensors.torch.save_file(state, place / "nan.safetensors")
    sentence = refused(
        casemate("audit", "mine.py:network", "--weights", "nan.safetensors", *AUDIT, "--run", "run", cwd=place)
    )
    assert "1.weight" in sentence


def test_debug_shows_the_traceback(place: Path) -> None:
    result = casemate("audit", "nowhere", *AUDIT, "--debug", cwd=place)
    assert "Traceback" in result.stderr


def test_a_used_run_folder_is_refused_and_resume_accepts_it(place: Path) -> None:
    arguments = ("audit", "mine.py:network", *AUDIT, "--run", "run", "--no-curves", "--no-diagnosis")
    assert casemate(*arguments, cwd=place).returncode == 0
    assert "--resume" in refused(casemate(*arguments, cwd=place))
    assert casemate(*arguments, "--resume", cwd=place).returncode == 0
    assert refused(casemate(*arguments, "--resume", "--seed", "5", cwd=place))


def test_ctrl_c_leaves_an_audit_that_goes_on(place: Path) -> None:
    arguments = [
        "audit", "mine.py:network", "--data", "digits-sample", "--threat", "linf:0.002", "--run", "run",
        "--limit", "160", "--block-size", "8", "--no-curves", "--no-diagnosis",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "casemate.cli", *arguments], cwd=place, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list((place / "run").glob("verdicts/*.parquet")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors
    assert "Traceback" not in errors
    done = len(list((place / "run").glob("verdicts/*.parquet")))
    assert done >= 1
    resumed = casemate(*arguments, "--preset", "standard", "--resume", cwd=place)
    assert resumed.returncode == 0, resumed.stderr


def test_attack_prints_json_and_writes_images(place: Path) -> None:
    result = casemate(
        "attack", "mine.py:network", "--data", "digits-sample", "--threat", "l2:1", "--limit", "20", "--n-steps", "5",
        "--json", "--out", "x.safetensors", cwd=place,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    written = safetensors.torch.load_file(place / "x.safetensors")
    assert written["x_adv"].shape == (20, 1, 28, 28)
    broken = int(written["broken"].sum())
    assert round((printed["clean_accuracy"] - printed["attacked_accuracy"]) * 20) == broken


@pytest.mark.parametrize("command", ["data", "models"])
def test_lists_are_json_too(tmp_path: Path, command: str) -> None:
    result = casemate(command, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)) >= 4


def test_every_command_has_help_that_says_what_it_does() -> None:
    runner = CliRunner()
    for command in (
        "demo",
        "train",
        "attack",
        "audit",
        "check",
        "report",
        "compare",
        "challenge",
        "data",
        "models",
        "reproduce",
    ):
        result = runner.invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert command in runner.invoke(app, ["--help"]).output


def test_a_recipe_with_a_typing_error_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("data: mnist\nmodel: {name: small-cnn}\nobjective: {kind: natural}\n")
    assert "threat" in refused(casemate("train", "r.yaml", cwd=tmp_path))
    assert "absent" in refused(casemate("train", "nothing.yaml", cwd=tmp_path))


def test_compare_puts_runs_side_by_side(place: Path) -> None:
    for seed in ("0", "1"):
        assert (
            casemate("audit", "mine.py:network", *AUDIT, "--run", f"run{seed}", "--seed", seed, cwd=place).returncode
            == 0
        )
    result = casemate("compare", "run0", "run1", "--json", cwd=place)
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["runs"]) == 2
    assert (place / "runs" / "compare.html").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--attack", "multi-target", "--target-rank", "3"), "--target-rank"),
        (("--attack", "pgd", "--source", "mine.py:network"), "--source"),
        (("--attack", "fgsm", "--n-restarts", "3"), "fgsm"),
        (("--attack", "transfer"), "--source"),
        (("--attack", "pdg"), "multi-target"),
    ],
)
def test_an_option_an_attack_has_no_use_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str], word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["casemate", "attack", "m.py:f", "--data", "mnist", "--threat", "linf:0.1", *options]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert word in capsys.readouterr().err


def test_certify_prints_json_and_writes_what_is_proved(place: Path) -> None:
    (place / "net.py").write_text(NETWORK)
    arguments = ("certify", "net.py:network", "--data", "digits-sample", "--threat", "linf:0.001", "--limit", "30")
    found = {}
    for certifier in ("ibp", "crown-ibp", "crown", "alpha-crown", "full-alpha-crown", "zonotope", "hybrid"):
        result = casemate(*arguments, "--certifier", certifier, "--json", "--out", "proved.csv", cwd=place)
        assert result.returncode == 0, result.stderr
        found[certifier] = json.loads(result.stdout)
        rows = [line.split(",") for line in (place / "proved.csv").read_text().splitlines()]
        assert rows[0] == ["index", "certified", "margin"]
        assert len(rows) == 31
        proved = sum(row[1] == "true" for row in rows[1:])
        assert (found[certifier]["certified"], found[certifier]["certified_accuracy"]) == (proved, proved / 30)
    # A linear classifier is bounded exactly by all of them.
    assert len({outcome["certified"] for outcome in found.values()}) == 1
    assert found["ibp"]["n"] == 30
    table = casemate(*arguments, cwd=place)
    assert "certified_accuracy" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("net.py:network", "--certifier", "oracle"),
            "unknown certifier 'oracle': choose ibp, crown-ibp, crown, alpha-crown, full-alpha-crown, branch-and-bound",
        ),
        (("net.py:network", "--slope", "steep"), "there is no slope 'steep': choose one of adaptive, same, zero, one"),
        (("net.py:unknown",), "the layer 1 (Softsign) is none that bounds are known for"),
    ],
)
def test_certify_refuses_in_one_sentence(place: Path, arguments: tuple[str, ...], sentence: str) -> None:
    unknown = "\ndef unknown():\n    return nn.Sequential(nn.Flatten(), nn.Softsign(), nn.Linear(784, 10))\n"
    (place / "net.py").write_text(NETWORK + unknown)
    common = ("--data", "digits-sample", "--threat", "linf:0.1", "--limit", "5")
    assert sentence in refused(casemate("certify", *arguments, *common, cwd=place))


def test_patches_and_pixels_are_certified_and_refused_elsewhere(place: Path) -> None:
    (place / "net.py").write_text(NETWORK)
    arguments = (
        "certify",
        "net.py:network",
        "--data",
        "digits-sample",
        "--limit",
        "5",
        "--certifier",
        "crown",
        "--json",
    )
    for threat in ("patch:1x1", "l0:1"):
        result = casemate(*arguments, "--threat", threat, cwd=place)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["threat"] == threat
    assert "patch:ROWSxCOLUMNS" in refused(casemate(*arguments, "--threat", "patch:2", cwd=place))
    assert "has no other budgets" in refused(casemate(*arguments, "--threat", "l0:1", "--radius", cwd=place))
    attack = ("attack", "net.py:network", "--data", "digits-sample", "--threat", "l0:1")
    assert "for `casemate certify` alone" in refused(casemate(*attack, cwd=place))


def test_audit_takes_certifiers_by_name(place: Path) -> None:
    (place / "net.py").write_text(NETWORK)
    arguments = ("audit", "net.py:network", *AUDIT, "--no-curves", "--no-diagnosis", "--json")
    for names, listed in (("none", []), ("crown,ibp", ["IBP", "CROWN"])):
        result = casemate(*arguments, "--certifiers", names, "--run", f"run-{names}", cwd=place)
        assert result.returncode == 0, result.stderr
        assert [proof["name"] for proof in json.loads(result.stdout)["certifiers"]] == listed
    assert "unknown certifier 'magic'" in refused(casemate(*arguments, "--certifiers", "magic", cwd=place))


def test_audit_transfers_from_other_models(place: Path) -> None:
    (place / "net.py").write_text(NETWORK)
    arguments = ("audit", "net.py:network", *AUDIT, "--no-curves", "--no-diagnosis", "--json")
    result = casemate(*arguments, "--source", "mine.py:network", "--run", "run", cwd=place)
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout)["attacks"][-1]
    assert last["name"] == "transfer from mine.py:network"
    (source,) = json.loads((place / "run" / "run.json").read_text())["remedies"]["sources"]
    assert source["name"] == "mine.py:network"
    assert casemate("check", "run", cwd=place).returncode == 0
    assert "has 2 logits" in refused(casemate(*arguments, "--source", "mine.py:two_classes", "--run", "two", cwd=place))
    assert "nowhere" in refused(casemate(*arguments, "--source", "nowhere", "--run", "none", cwd=place))
