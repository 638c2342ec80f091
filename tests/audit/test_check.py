import hashlib
import json
import re
import shutil

import polars as pl
import pytest
import torch
from audit_toys import STAGES, THREAT, convolutional, dataset

from casemate import files
from casemate.audit import Store, audit, check
from casemate.audit.verdict import VERDICT_SCHEMA, decode, encode
from casemate.errors import CasemateError

PART = "part-00000000.parquet"


@pytest.fixture(scope="module")
def model():
    return convolutional()


@pytest.fixture(scope="module")
def data(model):
    return dataset(model)


@pytest.fixture(scope="module")
def honest(model, data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "honest"
    audit(model, data, THREAT, run=run, stages=STAGES, curves=False, diagnosis=False, block_size=20)
    return run


@pytest.fixture
def run(honest, tmp_path):
    shutil.copytree(honest, tmp_path / "run")
    return tmp_path / "run"


def first(run, verdict):
    return Store(run).verdicts_of("part-00000000").filter(pl.col("verdict") == verdict)["index"][0]


def change_row(run, index, **values):
    """Set columns of one verdict."""
    path = run / "verdicts" / PART
    rows = [row | (values if row["index"] == index else {}) for row in pl.read_parquet(path).iter_rows(named=True)]
    pl.DataFrame(rows, schema=VERDICT_SCHEMA).write_parquet(path)


def change_evidence(run, index, change, *, row_too=False):
    """Put `change(image)` in the place of one adversarial image, and its hash in the row if asked."""
    path = run / "evidence" / PART
    rows = []
    for row in pl.read_parquet(path).iter_rows(named=True):
        if row["index"] == index:
            row["image"] = encode(change(decode(row["image"], row["shape"])))
            sha256 = hashlib.sha256(row["image"]).hexdigest()
        rows.append(row)
    pl.DataFrame(rows).write_parquet(path)
    if row_too:
        change_row(run, index, evidence_sha256=sha256)


def test_an_honest_run_passes(run, model, data):
    result = check(run, model=model, data=data)
    assert result.ok
    assert result.n == len(data)
    assert result.replayed == Store(run).verdicts().filter(pl.col("verdict") == "broken").height > 0
    assert json.loads(json.dumps(result.as_json()))["ok"] is True


def one_bit(image):
    image = image.clone()
    image[0, 0, 0] = torch.nextafter(image[0, 0, 0], torch.tensor(0.5))
    return image


@pytest.mark.parametrize(
    ("change", "row_too", "complaint"),
    [
        (one_bit, False, "does not match its SHA-256"),
        (lambda image: image + 0.01, True, "away, outside linf:0.015"),
        (lambda image: image * torch.nan, True, "away, outside linf:0.015"),
        (lambda image: image[:, 1:], True, "has shape .* in 120 bytes, not float32"),
        (lambda image: image.double() * 0.999, True, "the run says|the model is right|outside"),
    ],
)
def test_a_changed_adversarial_image_is_named(run, model, data, change, row_too, complaint):
    index = first(run, "broken")
    change_evidence(run, index, change, row_too=row_too)
    (failure,) = check(run, model=model, data=data).failures
    assert failure.index == index
    assert re.search(complaint, failure.sentence)


def test_the_clean_image_is_no_evidence(run, model, data):
    index = first(run, "broken")
    change_evidence(run, index, lambda _: data.images[index], row_too=True)
    (failure,) = check(run, model=model, data=data).failures
    assert failure.index == index
    assert "the model is right on its adversarial image" in failure.sentence


@pytest.mark.parametrize(
    ("verdict", "values", "complaint"),
    [
        ("unresolved", {"verdict": "misclassified"}, "called misclassified, and the model says"),
        ("misclassified", {"verdict": "unresolved"}, "without an attack"),
        ("misclassified", {"label": 9}, "the run says 9"),
        ("misclassified", {"margin": -50.0}, "its margin is"),
        ("unresolved", {"verdict": "certified"}, "certified by None"),
        ("unresolved", {"verdict": "broken"}, "no adversarial images are stored"),
        ("unresolved", {"verdict": "safe"}, "none of misclassified, broken, certified, unresolved"),
        ("unresolved", {"verdict": None}, "none of misclassified"),
        ("unresolved", {"attack": "FGSM"}, "an attack is said to have broken it"),
        ("unresolved", {"confidence": 0.123}, "the run says 0.123"),
        ("unresolved", {"prediction": 7}, "the run says 7"),
        ("broken", {"verdict": "unresolved"}, "called unresolved, and an adversarial image is stored"),
        ("broken", {"attack": "secret"}, "broken by 'secret'"),
        ("broken", {"broken_by": []}, "which is not the first of"),
        ("broken", {"broken_by": None}, "which is not the first of"),
        ("broken", {"distance": 0.01}, "the run says 0.01"),
        ("broken", {"distance": None}, "the run says None"),
        ("broken", {"adversarial_prediction": 9}, "the run says 9"),
        ("broken", {"margin": 3.0}, "the run says 3.0"),
        ("broken", {"evidence_sha256": None}, "does not match its SHA-256"),
    ],
)
def test_a_changed_verdict_is_named(run, model, data, verdict, values, complaint):
    index = first(run, verdict)
    change_row(run, index, **values)
    failures = [failure for failure in check(run, model=model, data=data).failures if failure.index is not None]
    assert [failure.index for failure in failures] == [index]
    assert complaint in failures[0].sentence


def test_lost_evidence_names_its_file(run, model, data):
    (run / "evidence" / PART).unlink()
    (failure,) = check(run, model=model, data=data).failures
    assert failure.index is None
    assert f"evidence/{PART} is absent" in failure.sentence


def test_a_lost_row_of_evidence_names_the_image(run, model, data):
    index = first(run, "broken")
    path = run / "evidence" / PART
    pl.read_parquet(path).filter(pl.col("index") != index).write_parquet(path)
    (failure,) = check(run, model=model, data=data).failures
    assert (failure.index, "no adversarial images" in failure.sentence) == (index, True)


def test_evidence_for_no_verdict_is_named(run, model, data):
    path = run / "evidence" / PART
    other = pl.read_parquet(run / "evidence" / "part-00000020.parquet").head(1)
    pl.concat([pl.read_parquet(path), other]).write_parquet(path)
    (failure,) = check(run, model=model, data=data).failures
    assert failure.index == other["index"][0]


@pytest.mark.parametrize("kind", ["verdicts", "evidence"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all", None])
def test_a_damaged_shard_is_named(run, model, data, kind, content):
    path = run / kind / PART
    path.write_bytes(path.read_bytes()[:-7] if content is None else content)
    failures = check(run, model=model, data=data).failures
    assert any(failure.index is None and f"{kind}/{PART}" in failure.sentence for failure in failures)


def test_other_columns_are_named(run, model, data):
    pl.DataFrame({"index": [1, 2]}).write_parquet(run / "verdicts" / PART)
    assert "columns of its kind" in check(run, model=model, data=data).failures[0].sentence


def test_a_lost_block_is_an_unfinished_run(run, model, data):
    (run / "verdicts" / "part-00000020.parquet").unlink()
    (failure,) = check(run, model=model, data=data).failures
    assert failure.index == 20
    assert "first of 20 images without a verdict" in failure.sentence


def test_verdicts_twice_or_beyond_the_data(run, model, data):
    path = run / "verdicts" / PART
    rows = pl.read_parquet(path)
    rows = pl.concat([rows, rows.filter(pl.col("verdict") == "unresolved").head(1)])
    rows = pl.concat([rows, rows.head(1).with_columns(index=pl.lit(40, pl.Int64))])
    rows = pl.concat([rows, rows.head(1).with_columns(index=pl.lit(None, pl.Int64))])
    rows.write_parquet(path)
    sentences = {failure.index: failure.sentence for failure in check(run, model=model, data=data).failures}
    assert sentences[first(run, "unresolved")] == "it has 2 verdicts"
    assert "the run has images 0 to 39" in sentences[40]


def test_nothing_audited_yet(run, model, data):
    shutil.rmtree(run / "verdicts")
    (failure,) = check(run, model=model, data=data).failures
    assert "first of 40 images without a verdict" in failure.sentence


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n", 50),
        ("attacked_accuracy", 0.99),
        ("verdicts", {"misclassified": 0, "broken": 0, "certified": 40, "unresolved": 0}),
        ("robust_accuracy_interval", [0.5, 0.6]),
        ("attacks", []),
        ("attacks", None),
    ],
)
def test_a_summary_that_says_otherwise_is_named(run, model, data, key, value):
    path = run / "summary.json"
    files.write_json(path, json.loads(path.read_text()) | {key: value})
    (failure,) = check(run, model=model, data=data).failures
    assert "summary.json" in failure.sentence


@pytest.mark.parametrize("content", [None, "", "[]", "3"])
def test_a_summary_that_is_none_is_named(run, model, data, content):
    path = run / "summary.json"
    path.unlink() if content is None else path.write_text(content)
    (failure,) = check(run, model=model, data=data).failures
    assert "summary.json" in failure.sentence


def test_another_model_or_other_images_are_not_replayed_on(run, model, data):
    other = convolutional()
    with torch.no_grad():
        other[0].bias.add_(1.0)
    (failure,) = check(run, model=other, data=data).failures
    assert "fingerprint" in failure.sentence
    (failure,) = check(run, model=model, data=dataset(model, n=39)).failures
    assert "not the 40 images" in failure.sentence


def test_code_that_fails_now_is_a_failure(run, model, data):
    broken = convolutional()
    broken[3] = torch.nn.Identity()
    failures = check(run, model=broken, data=data).failures
    assert "cannot take images of shape [1, 6, 6]" in failures[0].sentence


@pytest.mark.parametrize("content", [None, "{", "{}", '{"format": 1}', '{"format": 1, "model": 3}'])
def test_a_run_without_its_manifest_cannot_be_checked(run, model, data, content):
    path = run / "run.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(CasemateError, match=r"run\.json"):
        check(run, model=model, data=data)


def test_a_run_that_does_not_say_where_its_model_is(run, data):
    with pytest.raises(CasemateError, match="does not say where its model is"):
        check(run, data=data)


def test_progress_ends_at_all_images(run, model, data):
    told = []
    check(run, model=model, data=data, progress=lambda done, n: told.append((done, n)))
    assert told == [(20, 40), (40, 40)]


def test_a_false_certificate_is_found(run, model, data):
    index = first(run, "unresolved")
    change_row(run, index, verdict="certified", certifier="IBP", proved_margin=0.1)
    (failure, *_) = check(run, model=model, data=data).failures
    assert failure.index == index
    assert re.fullmatch(r"IBP does not certify it: it proves a margin of -[0-9.]+", failure.sentence)


@pytest.mark.parametrize(
    ("verdict", "values", "sentence"),
    [
        ("certified", {"proved_margin": 100.0}, "(CROWN-)?IBP proves a margin of [0-9.e-]+, and the run says 100.0"),
        ("certified", {"certifier": "oracle"}, "it is said to be certified by 'oracle', which is not among the run's"),
        ("unresolved", {"certifier": "IBP"}, "it is called unresolved, and a certifier is said to prove it"),
    ],
)
def test_a_changed_claim_of_a_proof_is_found(run, model, data, verdict, values, sentence):
    index = first(run, verdict)
    change_row(run, index, **values)
    (failure, *_) = check(run, model=model, data=data).failures
    assert failure.index == index
    assert re.fullmatch(sentence, failure.sentence)
