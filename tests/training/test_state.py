import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from training_toys import quick

from casemate import models
from casemate.errors import CasemateError
from casemate.training import state
from casemate.training.averaging import Average
from casemate.training.guard import Check
from casemate.training.recipe import Recipe

Parts = tuple[Recipe, nn.Module, torch.optim.Optimizer, Average | None]


def parts(kind: str = "adam", *, average: bool = True) -> Parts:
    recipe = quick(optimiser={"kind": kind, "lr": 0.01})
    model = models.build("preact-resnet", width=16).to(memory_format=torch.channels_last)
    return recipe, model, recipe.optimiser.build(model), Average(model, 0.9) if average else None


def trained(kind: str = "adam", *, average: bool = True) -> Parts:
    recipe, model, optimiser, mean = parts(kind, average=average)
    for number in range(3):
        optimiser.zero_grad()
        model(torch.rand(4, 3, 8, 8)).square().sum().backward()
        optimiser.step()
        if mean is not None:
            mean.update(model, number)
    return recipe, model, optimiser, mean


def save(path: Path, of: Parts, **changes: Any) -> None:
    recipe, model, optimiser, average = of
    progress = state.Progress(3, 1.5, 2.5, [Check(3, 1.0, 0.9, 0.5, 0.25)], "bfloat16")
    arguments = {"progress": progress, "best": {"conv.weight": torch.ones(2)}}
    state.save(path, recipe=recipe, model=model, optimiser=optimiser, average=average, **(arguments | changes))


def load(path: Path, into: Parts) -> tuple[state.Progress, state.Weights | None]:
    recipe, model, optimiser, average = into
    return state.load(path, recipe=recipe, model=model, optimiser=optimiser, average=average)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("average", [False, True])
def test_all_of_a_run_comes_back_in_the_bits_and_the_layout_it_had(kind: str, average: bool, tmp_path: Path) -> None:
    of, into = trained(kind, average=average), parts(kind, average=average)
    save(tmp_path / "state", of)
    progress, best = load(tmp_path / "state", into)
    assert progress == state.Progress(3, 1.5, 2.5, [Check(3, 1.0, 0.9, 0.5, 0.25)], "bfloat16")
    assert best is not None
    assert same(best, {"conv.weight": torch.ones(2)})
    assert same(of[1].state_dict(), into[1].state_dict())
    if of[3] is not None and into[3] is not None:
        assert same(of[3].model.state_dict(), into[3].model.state_dict())
    for mine, theirs in zip(of[1].parameters(), into[1].parameters(), strict=True):
        before, after = of[2].state[mine], into[2].state[theirs]
        assert before.keys() == after.keys()
        for name, value in before.items():
            if isinstance(value, Tensor):
                assert torch.equal(value, after[name])
                assert value.stride() == after[name].stride()


def test_without_best_weights_there_are_none(tmp_path: Path) -> None:
    save(tmp_path / "state", trained(), best=None)
    assert load(tmp_path / "state", parts())[1] is None


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "state", trained())
    _, model, optimiser, average = parts()
    with pytest.raises(CasemateError, match="belongs to another recipe: resume with that one"):
        load(tmp_path / "state", (quick(seed=1), model, optimiser, average))


def test_a_state_from_before_the_precision_was_kept_can_be_read(tmp_path: Path) -> None:
    of = trained()
    save(tmp_path / "state", of)
    with safetensors.safe_open(tmp_path / "state", framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    progress = json.loads(metadata["progress"])
    del progress["precision"]
    (tmp_path / "state").write_bytes(safetensors.torch.save(tensors, metadata | {"progress": json.dumps(progress)}))
    assert load(tmp_path / "state", parts())[0].precision == "auto"


def damaged(content: bytes) -> dict[str, bytes]:
    tensors = safetensors.torch.load(content)
    size = 8 + int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8:size])["__metadata__"]
    # Not a counter of batch normalisation, which torch lets pass; and the same one in every run.
    first = min(name for name in tensors if name.startswith("model.") and name.endswith(".weight"))
    return {
        "empty": b"",
        "garbage": bytes(range(256)) * 10,
        "torn": content[: len(content) // 2],
        "torn in the head": content[: size // 2],
        "no metadata": safetensors.torch.save(tensors),
        "no progress": safetensors.torch.save(tensors, {"recipe": metadata["recipe"]}),
        "progress of another kind": safetensors.torch.save(tensors, metadata | {"progress": "[1, 2]"}),
        "recipe of another kind": safetensors.torch.save(tensors, metadata | {"recipe": "{}"}),
        "a weight is missing": safetensors.torch.save({k: v for k, v in tensors.items() if k != first}, metadata),
        "a weight of another shape": safetensors.torch.save(tensors | {first: torch.ones(7)}, metadata),
        "a stranger in the optimiser": safetensors.torch.save(tensors | {"optimiser.x.y": torch.ones(7)}, metadata),
        "one weight too many": safetensors.torch.save(tensors | {"optimiser.999.exp_avg": torch.ones(7)}, metadata),
    }


def test_a_damaged_state_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save(path, trained())
    for what, content in damaged(path.read_bytes()).items():
        path.write_bytes(content)
        with pytest.raises(CasemateError, match="delete it to train from the beginning") as caught:
            load(path, parts())
        assert "\n" not in str(caught.value), what
