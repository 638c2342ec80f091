import errno
import json
import os
from dataclasses import dataclass, replace

import pytest
import torch
from audit_toys import STAGES, THREAT, Moves, Noise, assert_same_run, convolutional, dataset, images, linear
from torch import nn

from casemate import gradients, report
from casemate.attacks import PGD, Transfer
from casemate.audit import Proof, Stage, Store, audit, check
from casemate.audit.manifest import settings
from casemate.bounds import CROWNIBP, Certificate
from casemate.errors import CasemateError, Contradiction
from casemate.testing.models import Noisy
from casemate.threat import L0, Linf, Patch


@pytest.fixture(scope="module")
def model():
    return convolutional()


@pytest.fixture(scope="module")
def data(model):
    return dataset(model)


@pytest.fixture(scope="module")
def quiet(model, data, tmp_path_factory):
    """One run that nothing disturbs."""
    run = tmp_path_factory.mktemp("runs") / "quiet"
    audit(model, data, THREAT, run=run, stages=STAGES, curves=False, diagnosis=False)
    return run


def again(model, data, run, threat=THREAT, **changes):
    """The run of `quiet` once more, in small blocks."""
    kept = {"stages": STAGES, "curves": False, "diagnosis": False, "resume": True, "block_size": 8}
    return audit(model, data, threat, run=run, **(kept | changes))


def interrupt(after, doing=""):
    """A progress callback like Ctrl-C once `after` images are done and a stage with `doing` in its name begins."""

    def callback(progress):
        if progress.done >= after and doing in progress.doing:
            raise KeyboardInterrupt

    return callback


def test_the_summary_counts_what_is_stored(model, data, quiet):
    summary = json.loads((quiet / "summary.json").read_text())
    rows = Store(quiet).verdicts()
    assert list(summary) == [
        "model", "data", "threat", "n", "seed", "seconds", "run", "clean_accuracy", "attacked_accuracy",
        "certified_accuracy", "robust_accuracy_interval", "verdicts", "attacks", "certifiers", "evaluation", "symptoms",
        "remedies", "ways",
    ]  # fmt: skip
    assert sum(summary["verdicts"].values()) == summary["n"] == len(rows) == len(data)
    assert all(summary["verdicts"][name] for name in ("misclassified", "broken", "unresolved"))
    early, late = summary["certifiers"]
    assert (early["name"], late["name"]) == ("IBP", "CROWN-IBP")
    proved = {proof["name"]: (rows["certifier"] == proof["name"]).sum() for proof in summary["certifiers"]}
    assert proved == {"IBP": early["proved"], "CROWN-IBP": late["proved"]}
    assert summary["verdicts"]["certified"] == early["proved"] + late["proved"] > 0
    standing = summary["n"] - summary["verdicts"]["misclassified"]
    assert early["tried"] == standing
    standing -= early["proved"]
    for attack in summary["attacks"]:
        assert attack["tried"] == standing
        standing -= attack["broke"]
        assert attack["alone"] == sum(row["broken_by"] == [attack["name"]] for row in rows.iter_rows(named=True))
    assert late["tried"] == standing
    assert standing - late["proved"] == summary["verdicts"]["unresolved"]
    assert check(quiet, model=model, data=data).ok


@pytest.mark.parametrize("changes", [{"block_size": 3}, {"block_size": 7, "batch_size": 8}, {"block_size": 64}])
def test_verdicts_do_not_depend_on_blocks_and_batches(model, data, quiet, tmp_path, changes):
    again(model, data, tmp_path, resume=False, **changes)
    assert_same_run(tmp_path, quiet)


def test_ctrl_c_leaves_a_run_that_can_be_resumed(model, data, quiet, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        again(model, data, tmp_path, progress=interrupt(16, "broken"))
    assert len(Store(tmp_path).verdicts()) == 16
    told = []
    again(model, data, tmp_path, block_size=5, progress=told.append, command="second")
    assert told[0].done == 16
    assert told[-1].done == told[-1].n == sum(told[-1].verdicts.values()) == len(data)
    assert_same_run(tmp_path, quiet)
    manifest = Store(tmp_path).manifest()
    assert manifest["command_lines"] == ["", "second"]
    assert "finished" in manifest


@pytest.mark.parametrize("nth", range(6))
def test_a_full_disk_is_a_sentence_and_loses_nothing(model, data, quiet, tmp_path, monkeypatch, nth):
    real, calls = os.replace, iter(range(100))

    def full(source, target):
        if next(calls) >= nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(CasemateError, match="cannot write .*No space left on device"):
            again(model, data, tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    again(model, data, tmp_path)
    assert_same_run(tmp_path, quiet)


def test_leftovers_of_a_killed_writer_are_not_read_and_are_removed(model, data, quiet, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        again(model, data, tmp_path, progress=interrupt(8))
    leftover = tmp_path / "verdicts" / ".part-00000008.parquet.abc.tmp"
    leftover.write_bytes(b"PAR1 half a file")
    assert len(Store(tmp_path).verdicts()) == 8
    again(model, data, tmp_path)
    assert not leftover.exists()
    assert_same_run(tmp_path, quiet)


def test_an_existing_run_must_be_resumed_on_purpose(model, data, quiet):
    with pytest.raises(CasemateError, match="holds a run already: resume it"):
        again(model, data, quiet, resume=False)


def test_two_audits_do_not_write_into_one_folder(model, data, quiet, tmp_path):
    refused = []

    def second(progress):
        if not refused:
            with pytest.raises(CasemateError, match="another process is writing") as error:
                again(model, data, tmp_path)
            refused.append(error)

    again(model, data, tmp_path, progress=second)
    assert refused
    assert_same_run(tmp_path, quiet)


def test_verdicts_without_a_manifest_are_not_taken_over(model, data, tmp_path):
    (tmp_path / "verdicts").mkdir()
    (tmp_path / "verdicts" / "part-00000000.parquet").write_bytes(b"")
    with pytest.raises(CasemateError, match="holds verdicts but no run.json"):
        again(model, data, tmp_path)


def test_a_damaged_shard_is_named_on_resume(model, data, tmp_path):
    again(model, data, tmp_path)
    shard = tmp_path / "verdicts" / "part-00000008.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(CasemateError, match="part-00000008.parquet is damaged .*: delete"):
        again(model, data, tmp_path)


def changed(model):
    other = convolutional()
    with torch.no_grad():
        other[0].bias.add_(1e-3)
    return other


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": changed}, "its model fingerprint is"),
        ({"data": lambda data: replace(data, labels=data.labels.flip(0))}, "its data fingerprint is"),
        ({"data": lambda data: replace(data, images=data.images[:9], labels=data.labels[:9])}, "images is 40 and .* 9"),
        ({"threat": Linf(0.2)}, "its threat model is linf:0.015 and that of this audit is linf:0.2"),
        ({"seed": 1}, "its seed is 0 and that of this audit is 1"),
        ({"stages": (STAGES[0], Stage("PGD-5", PGD(n_steps=6)), STAGES[2])}, 'is PGD-5 .*"n_steps": 5,.*"n_steps": 6,'),
        ({"stages": STAGES[:2]}, "its attacks is targets .* and that of this audit is none"),
        ({"precision": "bfloat16"}, "its search precision is float32 and that of this audit is bfloat16"),
    ],
)
def test_a_resume_with_other_settings_is_refused_by_naming_one(model, data, quiet, changes, complaint):
    chosen = dict(changes)
    model = chosen.pop("model", lambda model: model)(model)
    data = chosen.pop("data", lambda data: data)(data)
    with pytest.raises(CasemateError, match=f"cannot be resumed: .*{complaint}"):
        again(model, data, quiet, **chosen)


def test_the_draws_of_a_randomised_classifier_are_measured_once_and_kept_by_a_resume(model, data, tmp_path):
    noisy = nn.Sequential(Noisy(sigma=0.5), model)
    audit(noisy, data, Linf(0.015), run=tmp_path, stages=STAGES[:1], curves=False, diagnosis=False)
    draws = Store(tmp_path).manifest()["draws"]
    assert draws >= 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "enough_draws", lambda gradient: pytest.fail("measured again"))
        audit(noisy, data, Linf(0.015), run=tmp_path, stages=STAGES[:1], curves=False, diagnosis=False, resume=True)
    assert Store(tmp_path).manifest()["draws"] == draws


def test_an_audit_from_before_draws_were_counted_can_be_resumed(model, data, tmp_path):
    audit(model, data, Linf(0.015), run=tmp_path, stages=STAGES[:1], curves=False, diagnosis=False)
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest.pop("draws") is None
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    audit(model, data, Linf(0.015), run=tmp_path, stages=STAGES[:1], curves=False, diagnosis=False, resume=True)


def with_nan_weight():
    broken = convolutional()
    with torch.no_grad():
        broken[0].weight[0, 0, 0, 0] = torch.nan
    return broken


class Answers(nn.Module):
    """What `make` makes of the logits of a network."""

    def __init__(self, make):
        super().__init__()
        self.make = make
        self.inner = convolutional()

    def forward(self, x):
        return self.make(self.inner(x))


def nan_for_one(logits):
    return torch.where(torch.arange(len(logits))[:, None] == 3, torch.nan, logits)


@pytest.mark.parametrize(
    ("unfit", "complaint"),
    [
        (with_nan_weight(), "NaN or infinite weights in '0.weight'"),
        (Answers(nan_for_one), "NaN among the logits of image 3"),
        (Answers(lambda logits: logits.softmax(dim=1)), "returned probabilities"),
        (Answers(lambda logits: logits[:, :3]), "has 3 logits and toys has 4 classes"),
        (Answers(lambda logits: (logits,)), "returned a tuple"),
        (Answers(lambda logits: {"logits": logits}), "returned a dict"),
        (Answers(lambda logits: logits.detach()), "no gradient with respect to its images"),
        (linear(side=5), r"cannot take images of shape \[1, 6, 6\]: "),
    ],
)
def test_a_model_that_cannot_be_audited_is_refused(unfit, data, tmp_path, complaint):
    with pytest.raises(CasemateError, match=complaint):
        again(unfit, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": torch.arange(40) % 5}, "image 4 has label 4; labels must be 0 to 3"),
        ({"labels": torch.arange(40) % 4 - 1}, "image 0 has label -1"),
        ({"images": images(40) * 255}, "scale images to"),
        ({"images": images(40).log() / 0}, "image 0"),
        ({"images": images(0), "labels": torch.zeros(0).long()}, "no images to audit"),
    ],
)
def test_images_that_cannot_be_audited_are_refused(model, data, tmp_path, change, complaint):
    with pytest.raises(CasemateError, match=complaint):
        again(model, replace(data, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"stages": ()}, "at least one attack"),
        ({"stages": (STAGES[0], STAGES[0])}, "two attacks of the cascade are called 'FGSM'"),
        ({"block_size": 0}, "block size must be at least 1"),
        ({"preset": "hard", "stages": None}, "unknown preset 'hard'"),
    ],
)
def test_a_cascade_that_cannot_run_is_refused(model, data, tmp_path, changes, complaint):
    with pytest.raises(CasemateError, match=complaint):
        again(model, data, tmp_path / "run", **changes)


def test_a_dishonest_attack_stops_the_audit(model, data, tmp_path):
    with pytest.raises(CasemateError, match="the attack greedy made of image"):
        again(model, data, tmp_path, stages=(*STAGES, Stage("greedy", Moves(0.2))))


@pytest.mark.parametrize("n_classes", [2, 1000])
def test_two_and_a_thousand_classes(tmp_path, n_classes):
    model = linear(n_classes)
    data = dataset(model, n=12, n_classes=n_classes)
    summary = audit(model, data, Linf(0.02), run=tmp_path, preset="quick")
    assert summary.bracket.n == 12
    assert check(tmp_path, model=model, data=data).ok


def test_a_folder_that_cannot_be_is_a_sentence(model, data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CasemateError, match="cannot write"):
        again(model, data, tmp_path / "file" / "run")


def test_the_training_log_travels_with_the_run(model, data, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "log.jsonl").write_text('{"kind": "train"}\n')
    again(model, data, tmp_path / "run", spec=str(tmp_path / "model"))
    assert (tmp_path / "run" / "training.jsonl").read_text() == '{"kind": "train"}\n'


def test_the_model_is_left_as_it_was(model, data, tmp_path):
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    again(model, data, tmp_path)
    assert model.training
    model.eval()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_randomised_model_draws_the_same_in_any_block_and_in_the_check(data, tmp_path):
    noisy = nn.Sequential(Noise(), *convolutional())
    for run, block_size in (("a", 40), ("b", 7)):
        again(noisy, data, tmp_path / run, block_size=block_size, stages=STAGES[:2])
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert Store(tmp_path / "a").verdicts()["verdict"].n_unique() == 3
    assert check(tmp_path / "a", model=noisy, data=data).ok


def test_settings_name_what_is_inside_by_its_fingerprint(model):
    attack = Transfer(model, PGD(n_steps=3), "itself")
    found = settings(attack)
    assert (found["kind"], found["attack"]["n_steps"]) == ("Transfer", 3)
    assert found["source"]["sha256"] == settings(Transfer(convolutional()))["source"]["sha256"]
    assert found["source"]["sha256"] != settings(Transfer(changed(None)))["source"]["sha256"]
    assert settings(lambda: None) == settings(lambda: None)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("threat", [L0(2), Patch(3, 2)], ids=str)
def test_patches_and_pixels_are_audited_by_stages_of_ones_own(data, tmp_path, threat):
    """A classifier that hardly looks is certified, one that does is broken, and a check makes both again."""
    for name, scale in (("blind", 1e-4), ("seeing", 1.0)):
        model = convolutional()
        with torch.no_grad():
            next(model.parameters()).mul_(scale)
        again = dataset(model)
        stages, run = (Stage("PGD", PGD(n_steps=20)),), tmp_path / name
        found = audit(model, again, threat, run=run, stages=stages, curves=False, diagnosis=False).bracket
        assert (found.certified if name == "blind" else found.broken) > 5
        assert check(run, model=model, data=again).ok
        assert str(threat) in report.write(run).read_text()


def test_curves_are_drawn_once(model, data, tmp_path):
    again(model, data, tmp_path, curves=True, stages=STAGES[:1])
    first = (tmp_path / "curves.json").read_bytes()
    (tmp_path / "curves.json").write_bytes(first + b" ")
    again(model, data, tmp_path, curves=True, stages=STAGES[:1])
    assert (tmp_path / "curves.json").read_bytes() == first + b" "


def test_a_resumed_run_keeps_its_precision(model, data, tmp_path):
    again(model, data, tmp_path, precision="bfloat16")
    assert Store(tmp_path).manifest()["precision"] == "bfloat16"
    again(model, data, tmp_path)
    assert check(tmp_path, model=model, data=data).ok


@dataclass(frozen=True)
class Says:
    """Calls everything certified, or a classifier that it knows nothing about."""

    knows: bool = True

    def certify(self, model, x, y, threat, *, keys=None):
        if not self.knows:
            raise CasemateError("the layer waves has no rule")
        margin = torch.ones(len(x), dtype=torch.float64)
        return Certificate(margin > 0, margin, threat.eps * margin)


def test_an_image_both_proved_and_broken_stops_the_audit(model, data, tmp_path):
    liar = Proof("liar", Says(), early=True)
    with pytest.raises(Contradiction, match="image [0-9]+ is certified by liar and broken by FGSM"):
        audit(model, data, Linf(0.3), run=tmp_path, stages=STAGES, proofs=(liar,), curves=False, diagnosis=False)
    assert not len(Store(tmp_path).verdicts())


def test_a_certifier_that_knows_nothing_is_left_out_and_says_why(model, data, tmp_path):
    proofs = (Proof("waves", Says(knows=False)), Proof("CROWN-IBP", CROWNIBP()))
    summary = audit(model, data, THREAT, run=tmp_path, stages=STAGES, proofs=proofs, curves=False, diagnosis=False)
    waves, bounds = summary.certifiers
    assert waves.unusable == "the layer waves has no rule"
    assert (waves.tried, waves.proved) == (0, 0)
    assert bounds.unusable is None
    assert bounds.proved > 0
