"""VNNLIB properties as they are parsed and as they are decided."""

import os
from pathlib import Path

import pytest
import torch

from casemate.errors import CasemateError
from casemate.models.from_onnx import read_network
from casemate.vnn.verify import verify
from casemate.vnn.vnnlib import parse, read_property

TEXT = """; a comment
(declare-const X_0 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (<= X_0 0.5))
(assert (>= X_0 -0.25))
"""


def test_a_property_is_a_box_and_its_cases() -> None:
    found = parse(TEXT + "(assert (or (and (>= Y_0 Y_1) (<= Y_1 2)) (and (<= Y_0 Y_1))))")
    assert (found.lower.tolist(), found.upper.tolist()) == ([-0.25], [0.5])
    cases = [[(row.tolist(), offset) for row, offset in case] for case in found.cases]
    assert cases == [[([-1.0, 1.0], 0.0), ([0.0, 1.0], -2.0)], [([1.0, -1.0], 0.0)]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(assert (<= (+ Y_0 Y_1) 1))", "not supported"),
        ("(assert (<= Y_7 1))", "not declared"),
        ("(assert (<= Y_0 1)", "not closed"),
        ("(check-sat)", "not supported"),
        ("", "about the outputs"),
    ],
)
def test_what_is_not_supported_is_one_sentence(text: str, reason: str) -> None:
    with pytest.raises(CasemateError, match=reason):
        parse(TEXT + text)


def test_files_that_are_not_there_or_no_networks_are_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(CasemateError, match="cannot read .*No such file"):
        read_property(tmp_path / "absent.vnnlib")
    with pytest.raises(CasemateError, match="cannot read .*No such file"):
        read_network(tmp_path / "absent.onnx")
    (tmp_path / "junk.onnx").write_text("junk")
    with pytest.raises(CasemateError, match="cannot be read as ONNX"):
        read_network(tmp_path / "junk.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "verdict"),
    [(f"{n}_0.03", "unsat") for n in range(5)] + [(f"{n}_0.05", "unsat" if n in (2, 4) else "sat") for n in range(5)],
)
def test_it_answers_as_the_competition_agreed(name: str, verdict: str) -> None:
    networks = Path(os.environ.get("CASEMATE_DATA", "")) / "networks"
    path = networks / "mnist-net_256x2.onnx"
    if not path.is_file():
        pytest.skip("CASEMATE_DATA names no folder with networks/mnist-net_256x2.onnx")
    pytest.importorskip("onnx")
    model, shape = read_network(path)
    prop = read_property(networks / "vnnlib" / f"prop_{name}.vnnlib")
    found = verify(model, shape, prop, timeout=60)
    assert found.verdict == verdict
    if found.x is not None:
        assert bool(((found.x >= prop.lower) & (found.x <= prop.upper)).all())
        answer = model(found.x.view(1, *shape)).double()[0]
        assert any(all(float(row @ answer) + offset <= 0 for row, offset in case) for case in prop.cases)
    assert torch.is_tensor(found.x) == (verdict == "sat")
