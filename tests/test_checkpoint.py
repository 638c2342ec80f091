import hashlib
import json
import math
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from casemate import models
from casemate._version import __version__
from casemate.checkpoint import fingerprint, load, open_model, save
from casemate.errors import CasemateError

CARD = {"architecture": "small-cnn", "arguments": {"width": 2}, "threat": "linf:0.3", "metrics": {"clean": 0.98}}


def _network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("small-cnn", width=2)


def _same(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return list(mine) == list(theirs) and all(
        mine[name].dtype == theirs[name].dtype and torch.equal(mine[name], theirs[name]) for name in mine
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "model", _network(), CARD)
    return tmp_path / "model"


def _edit_card(folder: Path, **changes: Any) -> None:
    path = folder / "card.json"
    card = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in card.items() if value is not None}))


# --- a checkpoint of our own ---


def test_round_trip_is_bit_exact(folder: Path) -> None:
    model, card = load(folder)
    assert _same(model, _network())
    assert not model.training
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in model.parameters())
    assert {key: card[key] for key in CARD} == CARD
    assert card["casemate_version"] == __version__
    assert card["torch_version"] == torch.__version__
    assert card["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.safetensors"]


def test_round_trip_keeps_batch_statistics_and_layout_does_not_matter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = models.build("preact-resnet", width=2)
    network(torch.rand(8, 3, 16, 16))
    network.to(memory_format=torch.channels_last)
    save(tmp_path, network, {"architecture": "preact-resnet", "arguments": {"width": 2}})
    assert _same(load(tmp_path)[0], network)
    assert fingerprint(load(tmp_path)[0]) == fingerprint(network)


def test_a_loaded_network_trains_on(folder: Path) -> None:
    model, card = load(folder)
    model(torch.rand(2, 1, 28, 28)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    save(folder, model, card)
    assert _same(load(folder)[0], model)


@pytest.mark.parametrize("name", ["model.safetensors", "card.json"])
def test_an_absent_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CasemateError, match=rf"{name} is absent"):
        load(folder)


def test_one_changed_byte_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    for position in (0, len(content) // 2, len(content) - 1):
        changed = content.copy()
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(CasemateError, match=r"model\.safetensors does not match the SHA-256"):
            load(folder)
    path.write_bytes(content[:-1])
    with pytest.raises(CasemateError, match="does not match the SHA-256"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "casemate-checkpoint-0"}, "not a checkpoint card of this version"),
        ({"architecture": None}, "lacks 'architecture'"),
        ({"arguments": None}, "lacks 'arguments'"),
        ({"sha256": None}, "lacks 'sha256'"),
        ({"arguments": [2]}, 'needs "architecture"'),
        ({"architecture": "resnet-1000"}, "no architecture 'resnet-1000'; choose one of"),
        ({"arguments": {"depth": 3}}, "small-cnn has no argument 'depth'"),
        ({"arguments": {"width": 3}}, "'conv1.weight' of .* is float32 .*2, 1, 3, 3.* has float32 .*3, 1, 3, 3"),
        ({"arguments": {"width": 10**30}}, "describes a network that cannot be built"),
        ({"arguments": {"width": 10**9}}, "these weights belong to another network|cannot be built"),
        ({"architecture": "fast-at"}, "lacks 'fc1.weight' and has 'conv3.bias'.*belong to another network"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], sentence: str) -> None:
    _edit_card(folder, **changes)
    with pytest.raises(CasemateError, match=sentence):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"card"', "\x00"])
def test_a_broken_card_is_refused(folder: Path, text: str) -> None:
    (folder / "card.json").write_text(text)
    with pytest.raises(CasemateError, match=r"card\.json"):
        load(folder)


def _replace_weights(folder: Path, content: bytes) -> None:
    """As an attacker, or a careless converter, would: with a card that agrees."""
    (folder / "model.safetensors").write_bytes(content)
    _edit_card(folder, sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}x"])
def test_what_is_not_safetensors_is_refused(folder: Path, content: bytes) -> None:
    _replace_weights(folder, content)
    with pytest.raises(CasemateError, match=r"model\.safetensors is not a whole safetensors file"):
        load(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(folder: Path, tmp_path: Path, value: float) -> None:
    network = _network()
    with torch.no_grad():
        network.get_parameter("conv2.weight")[0, 0, 0, 0] = value
        network.get_parameter("fc.bias")[3] = value
    with pytest.raises(CasemateError, match="NaN or infinite values in 'conv2.weight'"):
        save(tmp_path / "new", network, CARD)
    assert not (tmp_path / "new").exists()
    _replace_weights(folder, safetensors.torch.save(network.state_dict()))
    with pytest.raises(CasemateError, match=r"model\.safetensors holds NaN or infinite values in 'conv2.weight'"):
        load(folder)


def test_nan_in_batch_statistics_is_refused(tmp_path: Path) -> None:
    network = models.build("madry-cifar")
    network.get_buffer("activation.0.running_var")[5] = math.nan
    with pytest.raises(CasemateError, match="in 'activation.0.running_var'"):
        save(tmp_path, network, {"architecture": "madry-cifar", "arguments": {}})


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        ({"architecture": "small-cnn"}, "the card needs"),
        ({"architecture": "fast-at", "arguments": {"width": 2}}, "the model lacks 'fc1.weight'"),
        ({**CARD, "arguments": {"width": 3}}, "'conv1.weight' of the model is"),
        ({**CARD, "data": Path("x")}, "does not fit into JSON"),
    ],
)
def test_what_would_not_open_is_not_saved(tmp_path: Path, card: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CasemateError, match=sentence):
        save(tmp_path / "new", _network(), card)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CasemateError, match=r"cannot write .*card\.json: .*; free some space or choose another folder"):
        save(tmp_path / "file" / "model", _network(), CARD)
    with pytest.raises(CasemateError, match=r"card\.json"):
        load(tmp_path / "file")


@pytest.mark.parametrize("fails", ["write_text", "write_bytes"])
def test_a_full_disk_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, fails, full)
        with pytest.raises(CasemateError, match="No space left on device"):
            save(folder, _network(1), CARD)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(CasemateError, match="No space left on device"):
            save(folder, _network(1), CARD)
    assert _same(load(folder)[0], _network(0))
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.safetensors"]


# --- fingerprints ---


def test_fingerprint_sees_weights_and_nothing_else() -> None:
    network = _network()
    before = fingerprint(network)
    assert len(before) == 64
    assert before == fingerprint(_network()) == fingerprint(_network().train()) == fingerprint(_network().eval())
    assert before == fingerprint(_network().to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    assert before != fingerprint(_network(1))
    assert before != fingerprint(_network().double())
    with torch.no_grad():
        weight = network.get_parameter("fc.weight")
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(math.inf))
    assert before != fingerprint(network)


def test_fingerprint_sees_names_shapes_and_buffers() -> None:
    class Holder(nn.Module):
        def __init__(self, **tensors: torch.Tensor) -> None:
            super().__init__()
            for name, tensor in tensors.items():
                self.register_buffer(name, tensor)

    ones = torch.ones(4)
    prints = [
        fingerprint(Holder(**tensors))
        for tensors in (
            {},
            {"a": ones},
            {"b": ones},
            {"a": ones.view(2, 2)},
            {"a": ones.bfloat16()},
            {"a": ones.bool()},
            {"a": ones[:0]},
            {"a": ones[0]},
            {"a": ones, "b": ones},
        )
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint(Holder(a=ones, b=ones * 2)) == fingerprint(Holder(b=ones * 2, a=ones))


def test_fingerprint_refuses_what_has_no_plain_bytes() -> None:
    network = nn.Module()
    network.register_buffer("odd", torch.eye(2).to_sparse())
    with pytest.raises(CasemateError, match="'odd' of the model is not a plain tensor"):
        fingerprint(network)


# --- opening ---

CODE = """
from torch import nn

def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
"""
KEYS = ["1.weight", "1.bias", "2.weight", "2.bias", "2.running_mean", "2.running_var", "2.num_batches_tracked"]


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(CODE)
    return f"{tmp_path / 'mine.py'}:network"


def _state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.tensor(7) if name.endswith("tracked") else torch.rand(3, 4) if name == "1.weight" else torch.rand(3)
        for name in KEYS
    }


def test_a_checkpoint_folder_is_opened(folder: Path) -> None:
    opened = open_model(str(folder))
    assert _same(opened.model, _network())
    assert opened.sha256 == fingerprint(_network())
    assert opened.name == str(folder)
    assert opened.card["threat"] == "linf:0.3"
    with pytest.raises(CasemateError, match="has weights|weights of its own"):
        open_model(str(folder), weights=folder / "model.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("legacy", [False, True])
def test_foreign_code_with_weights_is_opened(code: str, tmp_path: Path, suffix: str, legacy: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(_state(), path)
    else:
        torch.save(_state(), path, _use_new_zipfile_serialization=not legacy)
    opened = open_model(code, weights=path)
    assert not opened.model.training
    assert opened.card == {}
    assert opened.name == code
    for name, tensor in _state().items():
        assert torch.equal(opened.model.state_dict()[name], tensor)
    assert opened.sha256 == fingerprint(opened.model) == open_model(code, weights=path).sha256


def test_the_model_keeps_its_precision(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text("from torch import nn\ndef net(): return nn.Linear(2, 2).half()\n")
    assert next(open_model(f"{tmp_path / 'half.py'}:net").model.parameters()).dtype == torch.float16


def test_an_importable_module_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "casemate_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_model("casemate_test_package.nets:network").model, nn.Sequential)
    assert isinstance(open_model("torch.nn:Identity").model, nn.Identity)
    with pytest.raises(CasemateError, match="no_such_module:network failed with ModuleNotFoundError"):
        open_model("no_such_module:network")


def test_a_file_imports_what_lies_beside_it_and_never_another_models_file(tmp_path: Path) -> None:
    for size in (2, 3):
        (tmp_path / str(size)).mkdir()
        (tmp_path / str(size) / "casemate_test_size.py").write_text(f"SIZE = {size}\n")
        (tmp_path / str(size) / "net.py").write_text(
            "from torch import nn\nfrom casemate_test_size import SIZE\ndef net(): return nn.Linear(SIZE, SIZE)\n"
        )
    path_before = list(sys.path)
    for size in (2, 3, 2):
        opened = open_model(f"{tmp_path / str(size) / 'net.py'}:net")
        assert opened.model.get_parameter("weight").shape == (size, size)
    assert sys.path == path_before


def test_what_the_code_prints_goes_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loud.py").write_text(f"print('importing')\n{CODE}    print('never')\n")
    open_model(f"{tmp_path / 'loud.py'}:network")
    out, err = capsys.readouterr()
    assert out == ""
    assert "importing" in err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def net(): return 3", "returned a int: it must return an nn.Module"),
        ("def net(): return None", "returned a NoneType"),
        ("def net(): raise KeyError('first\\nsecond')", "failed with KeyError: 'first"),
        ("def net(): raise RuntimeError('first\\nsecond')", "failed with RuntimeError: first$"),
        ("def net(): raise RuntimeError", "failed with RuntimeError: no message"),
        ("def net(size): return size", "failed with TypeError: .*missing 1 required positional argument"),
        ("import sys\nsys.exit(3)", "failed with SystemExit: 3"),
        ("import no_such_module", "failed with ModuleNotFoundError"),
        ("def net(:", "failed with SyntaxError"),
        ("import torch\nnet = torch.nn.Linear(1, 2)", "is a Linear: name a function"),
        ("net = 3", "is a int: name a function"),
        ("other = 3", "has no 'net': name a function in it"),
        (
            "import torch\ndef net():\n m = torch.nn.Linear(1, 2)\n m.bias.data[1] = float('nan')\n return m",
            "holds NaN or infinite values in 'bias'",
        ),
        ("import torch\ndef net(): return torch.nn.LazyLinear(2)", "'weight' of the model is not a plain tensor"),
        ("import torch\ndef net(): return torch.nn.Linear(1, 2, device='meta')", "has no values in 'weight'"),
    ],
)
def test_code_that_fails_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LazyLinear warns that it is new.
        with pytest.raises(CasemateError, match=sentence) as raised:
            open_model(f"{tmp_path / 'bad.py'}:net")
    assert "\n" not in str(raised.value)


def test_a_mask_may_hold_minus_infinity(tmp_path: Path) -> None:
    (tmp_path / "mask.py").write_text(
        "import torch\n"
        "def net(value=float('-inf')):\n"
        "    m = torch.nn.Linear(1, 2)\n"
        "    m.register_buffer('mask', torch.full((2, 2), value), persistent=False)\n"
        "    return m\n"
        "def bad(): return net(float('inf'))\n"
    )
    open_model(f"{tmp_path / 'mask.py'}:net")
    with pytest.raises(CasemateError, match="in 'mask'"):
        open_model(f"{tmp_path / 'mask.py'}:bad")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("net.onnx", "cannot read net.onnx"),
        ("no/such/folder", "'no/such/folder' does not name a model: give a checkpoint folder"),
        ("no/such/file.py:net", r"no/such/file\.py is absent"),
        ("file.py:", "does not name a model"),
        (":net", "does not name a model"),
        ("file.py:net()", "does not name a model"),
        ("", "does not name a model"),
    ],
)
def test_what_names_no_model_is_refused(spec: str, sentence: str) -> None:
    with pytest.raises(CasemateError, match=sentence):
        open_model(spec)


def test_weights_alone_ask_for_their_code(folder: Path) -> None:
    with pytest.raises(CasemateError, match="a weights file needs the code of its network"):
        open_model(str(folder / "model.safetensors"))


# --- foreign weights ---


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "1.bias"}, "lacks '1.bias': these weights"),
        (_renamed, "lacks '1.weight' and has 'module.1.bias', which the architecture does not know"),
        (lambda s: {**s, "3.weight": torch.ones(1)}, "has '3.weight', which the architecture does not know"),
        (lambda s: {**s, "1.weight": torch.ones(4, 3)}, r"'1.weight' .* is float32 \[4, 3\] where .* float32 \[3, 4\]"),
        (lambda s: {**s, "1.bias": torch.ones(3, dtype=torch.int8)}, r"'1.bias' .* is int8 \[3\] where"),
        (lambda s: {**s, "1.bias": torch.full((3,), math.nan)}, r"weights.* holds NaN or infinite values in '1.bias'"),
        (lambda s: {}, "lacks '1.weight'"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_another_network_are_refused_by_name(
    code: str, tmp_path: Path, change: Callable[..., dict[str, torch.Tensor]], sentence: str, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    write = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    write(change(_state()), path)
    with pytest.raises(CasemateError, match=sentence):
        open_model(code, weights=path)


class _Payload:
    """A pickle of this runs code when it is opened the careless way."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)


@pytest.mark.parametrize("container", ["zip", "legacy", "plain pickle"])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_pickle_with_code_is_refused_and_the_code_never_runs(
    code: str, tmp_path: Path, container: str, suffix: str
) -> None:
    canary, path = tmp_path / "canary", tmp_path / f"evil{suffix}"
    content = {"1.weight": torch.ones(3, 4), "evil": _Payload(canary)}
    if container == "plain pickle":
        path.write_bytes(pickle.dumps(_Payload(canary)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(CasemateError, match="holds Python objects or code besides tensors, which are never opened"):
        open_model(code, weights=path)
    assert not canary.exists()
    torch.load(path, weights_only=False) if container != "plain pickle" else pickle.loads(path.read_bytes())
    assert canary.exists(), "the payload does nothing, so this test shows nothing"


def test_a_torchscript_archive_is_refused(code: str, tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated.
        torch.jit.save(torch.jit.trace(nn.Linear(4, 3), torch.rand(1, 4)), str(path))
    with pytest.raises(CasemateError, match="is a TorchScript archive, which is code; save model.state_dict"):
        open_model(code, weights=path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"state_dict": {"1.weight": torch.ones(3, 4)}, "epoch": 3}, "is not a state dict .see 'state_dict'"),
        ({3: torch.ones(1)}, "is not a state dict .see 3"),
        (torch.ones(3), "holds a Tensor, not a state dict"),
        ([torch.ones(3)], "holds a list, not a state dict"),
        (nn.Linear(4, 3), "holds Python objects or code besides tensors"),
    ],
)
def test_what_is_not_a_state_dict_is_refused(code: str, tmp_path: Path, content: object, sentence: str) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CasemateError, match=sentence):
        open_model(code, weights=tmp_path / "odd.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("keep", [0, 10, 400])
def test_damaged_weights_are_refused(code: str, tmp_path: Path, suffix: str, keep: int) -> None:
    whole = tmp_path / f"whole{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(_state(), whole)
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(CasemateError, match=r"weights\.\w+ (is not a whole|is damaged|cannot be read)") as raised:
        open_model(code, weights=path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
def test_weights_that_are_absent_or_of_no_known_kind(code: str, tmp_path: Path, suffix: str) -> None:
    sentence = "must be a .safetensors, .pt or .pth file" if suffix == ".bin" else "is absent"
    with pytest.raises(CasemateError, match=sentence):
        open_model(code, weights=tmp_path / f"none{suffix}")
