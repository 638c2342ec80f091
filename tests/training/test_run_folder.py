from pathlib import Path

import pytest
from training_toys import quick

from casemate import checkpoint, models
from casemate.errors import CasemateError
from casemate.training.folder import claimed, finished


def done(folder: Path, **entries: object) -> None:
    recipe = quick(**entries)
    card = {"architecture": "small-cnn", "arguments": {"width": 4}, "recipe": recipe.model_dump(mode="json")}
    checkpoint.save(folder, models.build("small-cnn", width=4), card)


def test_an_empty_folder_is_to_be_trained_into(tmp_path: Path) -> None:
    assert finished(tmp_path / "new", quick(), resume=False) is None
    assert finished(tmp_path, quick(), resume=True) is None


@pytest.mark.parametrize("name", ["card.json", "state.safetensors"])
def test_a_folder_with_a_run_is_refused_unless_it_is_to_be_resumed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(CasemateError, match=rf"holds a run already \({name}\): name another folder, or add --resume"):
        finished(tmp_path, quick(), resume=False)


def test_a_run_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    done(tmp_path)
    card = finished(tmp_path, quick(), resume=True)
    assert card is not None
    assert card["architecture"] == "small-cnn"
    with pytest.raises(CasemateError, match="holds a checkpoint of another recipe: name another folder"):
        finished(tmp_path, quick(seed=5), resume=True)


def test_two_cannot_train_into_one_folder_at_once(tmp_path: Path) -> None:
    with claimed(tmp_path / "run"):
        with pytest.raises(CasemateError, match="another process is writing"), claimed(tmp_path / "run"):
            pass
        with claimed(tmp_path / "other"):
            pass
    with claimed(tmp_path / "run"):
        pass


def test_the_claim_is_given_up_when_training_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), claimed(tmp_path):
        raise KeyError
    with claimed(tmp_path):
        pass


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".state.safetensors.ab12.tmp", ".card.json.x.tmp", ".log.jsonl.y.tmp", ".mine.tmp", "log.jsonl"):
        (tmp_path / name).touch()
    with claimed(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".mine.tmp", "log.jsonl"}


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(CasemateError, match="cannot write .*; choose another folder"),
        claimed(tmp_path / "file" / "run"),
    ):
        pass
    with pytest.raises(CasemateError, match="cannot write .*; choose another folder"), claimed(tmp_path / "file"):
        pass
