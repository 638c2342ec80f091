"""`casemate challenge` and `casemate attack --submission`, on 120 digits that stand in for the test split of MNIST."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from casemate import data
from casemate.cli import main
from casemate.data.dataset import Pixels
from casemate.data.digits_sample import DIGITS_SAMPLE
from casemate.papers.madry2018 import challenge
from casemate.papers.madry2018.challenge import MNIST
from casemate.papers.madry2018.leaderboards import Entry, Track

N = 120

NETWORK = """
import torch
from torch import nn
from casemate import data

def nearest_mean(order=lambda classes: classes):
    digits = data.load("digits-sample", "train")
    x = digits.images.flatten(1)
    means = torch.stack([x[digits.labels == digit].mean(dim=0) for digit in range(10)])
    layer = nn.Linear(784, 10)
    layer.weight.data = order(2 * means)
    layer.bias.data = order(-means.square().sum(dim=1))
    return nn.Sequential(nn.Flatten(), layer)

def another_order():
    return nearest_mean(lambda classes: classes.roll(1, dims=0))
"""


class FirstDigits:
    def __call__(self, split: str, *, limit: int | None, root: Path | None, progress: bool) -> Pixels:
        return DIGITS_SAMPLE(split, limit=min(N, limit or N), root=root, progress=progress)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(data.LOADERS, "mnist", FirstDigits())
    monkeypatch.setitem(challenge.CHALLENGES, "mnist", replace(MNIST, n_images=N))
    (tmp_path / "mine.py").write_text(NETWORK)
    return tmp_path


def casemate(*arguments: str) -> int:
    """Run in this process, whose data is patched; the exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["casemate", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
    return int(stopped.value.code or 0)


ATTACK = ("attack", "mine.py:nearest_mean", "--data", "mnist", "--threat", "linf:0.3", "--attack", "fgsm")
CHALLENGE = ("challenge", "mnist", "--model", "mine.py:nearest_mean")


def test_what_attack_writes_challenge_scores(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert casemate(*ATTACK, "--submission", "fgsm.npy", "--json") == 0
    attacked = json.loads(capsys.readouterr().out)
    clean = data.load("mnist", "test").images.flatten(1).numpy()
    np.save("clean.npy", clean)

    files = ("--submission", "clean.npy", "--submission", "fgsm.npy")
    assert casemate(*CHALLENGE, *files, "--predictions", "pred.npy", "--json") == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["n"] == N
    assert scored["accuracy"] == scored["attacked_accuracy"] == attacked["attacked_accuracy"] < 0.5
    assert scored["clean_accuracy"] == attacked["clean_accuracy"] > 0.7
    assert [row["accuracy"] for row in scored["submissions"]] == [scored["clean_accuracy"], scored["accuracy"]]
    assert [row["outside_by_rounding"] for row in scored["submissions"]] == [0, 0]
    assert scored["submissions"][1]["largest_change"] <= 0.3
    assert sum(scored["verdicts"].values()) == N
    low, high = scored["interval"]
    assert low < scored["accuracy"] < high
    assert scored["places"] == {"white box": 1, "black box": 1}
    predictions = np.load("pred.npy")
    assert predictions.dtype == np.int64
    labels = data.load("mnist", "test").labels.numpy()
    assert (predictions == labels).mean() == pytest.approx(scored["accuracy"])


def test_the_table_puts_ours_in_its_place(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    track = Track("white box", (Entry("the stronger", 5.0), Entry("the weaker", 95.0)))
    monkeypatch.setitem(challenge.CHALLENGES, "mnist", replace(MNIST, n_images=N, tracks=(track,)))
    np.save("clean.npy", data.load("mnist", "test").images.flatten(1).numpy())
    assert casemate(*CHALLENGE, "--submission", "clean.npy") == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if "the stronger" in line or "-->" in line or "the weaker" in line]
    score = printed.partition("score: ")[2].partition("%")[0]
    for at, (row, name) in enumerate(zip(rows, ("the stronger", "--> this submission", "the weaker"), strict=True), 1):
        assert name in row
        assert f" {at} " in row
    assert score in rows[1]
    assert "95% confidence" in printed
    assert f"of {N} images" in printed


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert casemate(*arguments) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    lines = streams.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("casemate: ")
    return lines[0]


def test_a_void_submission_is_one_sentence_and_status_2(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = data.load("mnist", "test").images.flatten(1).numpy()
    far = clean.copy()
    far[17, 5] = 0.5
    for array, words in (
        (far, "bad.npy is void: image 17 is moved by 0.5, which is 0.2 more than the 0.3"),
        (clean[::-1], f"image 0 is image {N - 1} of mnist[test]"),
        (clean[:, :100], f"({N}, 784)"),
        (clean * 255, "outside [0, 1]"),
    ):
        np.save("bad.npy", array)
        np.save("good.npy", clean)
        sentence = refused(capsys, *CHALLENGE, "--submission", "good.npy", "--submission", "bad.npy")
        assert words in sentence
    assert "absent" in refused(capsys, *CHALLENGE, "--submission", "nowhere.npy")


def test_a_wrong_network_or_challenge_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("clean.npy", data.load("mnist", "test").images.flatten(1).numpy())
    options = ("--submission", "clean.npy", "--predictions", "pred.npy")
    sentence = refused(capsys, "challenge", "mnist", "--model", "mine.py:another_order", *options)
    assert "clean images of mnist[test]" in sentence
    assert "mnist or cifar10" in refused(capsys, "challenge", "svhn", "--model", "mine.py:nearest_mean", *options)
    assert not (place / "pred.npy").exists()


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        (("--limit", "20"), "--limit"),
        (("--split", "train"), "--split"),
        (("--data", "digits-sample"), "no challenge on digits-sample"),
        (("--threat", "linf:0.2"), "linf:0.3"),
        (("--threat", "l2:0.3"), "linf:0.3"),
        (("--data", "cifar10"), "linf:8/255"),
    ],
)
def test_an_attack_that_is_no_entry_writes_no_submission(
    place: Path, capsys: pytest.CaptureFixture[str], changed: tuple[str, str], word: str
) -> None:
    assert word in refused(capsys, *ATTACK, *changed, "--submission", "s.npy")
    assert not (place / "s.npy").exists()


def test_help_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert casemate("challenge", "--help") == 0
    assert "leaderboards" in capsys.readouterr().out
