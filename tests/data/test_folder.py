"""`folder:PATH`: classes, splits, the order of the images, and every kind of file that is no image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from casemate.data import load
from casemate.errors import CasemateError


def write(path: Path, value: int = 0, mode: str = "L", size: tuple[int, int] = (6, 4)) -> None:
    """An image of one value; `size` is width, height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path)


def test_images_labels_and_class_names(tmp_path) -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    (tmp_path / "b").mkdir()
    Image.fromarray(grey).save(tmp_path / "b" / "x.png")
    write(tmp_path / "a" / "y.bmp", 255)
    (tmp_path / "notes.txt").write_text("a file beside the class folders is no class")
    (tmp_path / "a" / ".DS_Store").write_text("nor is a hidden file an image")
    (tmp_path / ".cache").mkdir()
    dataset = load(f"folder:{tmp_path}")
    assert dataset.classes == ("a", "b")
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.images.shape == (2, 1, 4, 6)
    assert (dataset.images[0] == 1).all()
    assert torch.equal(dataset.images[1, 0], torch.from_numpy(grey / np.float32(255)))


def test_rgb_channels_come_first(tmp_path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(colours).save(tmp_path / "a" / "x.png")
    image = load(f"folder:{tmp_path}").images[0]
    assert image.shape == (3, 4, 6)
    assert np.array_equal((image * 255).round().byte().numpy(), colours.transpose(2, 0, 1))


def test_the_classes_take_turns_and_files_are_sorted(tmp_path) -> None:
    for index in (2, 0, 1):
        write(tmp_path / "a" / f"{index}.png", index)
    write(tmp_path / "b" / "0.png", 10)
    for index in (1, 0):
        write(tmp_path / "c" / f"{index}.png", 20 + index)
    dataset = load(f"folder:{tmp_path}")
    assert (dataset.images[:, 0, 0, 0] * 255).round().int().tolist() == [0, 10, 20, 1, 21, 2]
    assert dataset.labels.tolist() == [0, 1, 2, 0, 2, 0]
    assert load(f"folder:{tmp_path}", limit=3).labels.tolist() == [0, 1, 2]


def test_splits_share_their_classes(tmp_path) -> None:
    write(tmp_path / "train" / "a" / "x.png")
    write(tmp_path / "train" / "b" / "x.png")
    write(tmp_path / "test" / "b" / "x.png")
    write(tmp_path / "test" / "c" / "x.png")
    assert load(f"folder:{tmp_path}", "train").labels.tolist() == [0, 1]
    test = load(f"folder:{tmp_path}", "test")
    assert test.labels.tolist() == [1, 2]  # b is 1 in both, although test has no a
    assert test.classes == ("a", "b", "c")


def test_a_class_may_be_called_train(tmp_path) -> None:
    write(tmp_path / "train" / "x.png")
    write(tmp_path / "plane" / "x.png")
    assert load(f"folder:{tmp_path}").classes == ("plane", "train")


def test_a_folder_without_splits_has_nothing_to_train_on(tmp_path) -> None:
    write(tmp_path / "a" / "x.png")
    with pytest.raises(CasemateError, match="has no training split; put the class folders of each split into"):
        load(f"folder:{tmp_path}", "train")


def test_a_missing_split_is_refused(tmp_path) -> None:
    write(tmp_path / "train" / "a" / "x.png")
    with pytest.raises(CasemateError, match="has no test split; put its class folders into .*/test"):
        load(f"folder:{tmp_path}", "test")


def test_an_absent_or_empty_folder_is_refused(tmp_path) -> None:
    with pytest.raises(CasemateError, match="names no folder that is there; the layout is PATH/CLASS/image"):
        load(f"folder:{tmp_path / 'typo'}")
    (tmp_path / "a").mkdir()
    with pytest.raises(CasemateError, match="holds no image; the layout is"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("mode", "size", "message"),
    [
        ("L", (6, 5), r"b/x\.png is 6 x 5 grey, where .*a/x\.png is 6 x 4 grey"),
        ("RGB", (6, 4), r"b/x\.png is 6 x 4 RGB, where .*a/x\.png is 6 x 4 grey"),
    ],
)
def test_the_first_image_of_another_size_or_kind_is_named(tmp_path, mode, size, message) -> None:
    write(tmp_path / "a" / "x.png")
    write(tmp_path / "b" / "x.png", mode=mode, size=size)
    write(tmp_path / "c" / "x.png", size=(9, 9))
    with pytest.raises(CasemateError, match=message):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_refused_not_dropped(tmp_path, mode) -> None:
    write(tmp_path / "a" / "x.png", mode=mode)
    with pytest.raises(CasemateError, match=rf"a/x\.png is of pillow's mode {mode}; save it as 8-bit grey"):
        load(f"folder:{tmp_path}")


def test_sixteen_bits_are_refused_not_clipped(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(tmp_path / "a" / "x.png")
    with pytest.raises(CasemateError, match=r"a/x\.png is of pillow's mode I;16"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(50), b"II*\0" + bytes(20)])
def test_what_is_no_image_is_named(tmp_path, content) -> None:
    write(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "y.png").write_bytes(content)
    with pytest.raises(CasemateError, match=r"a/y\.png cannot be used \(no image that pillow can read\); repair it"):
        load(f"folder:{tmp_path}")
    assert len(load(f"folder:{tmp_path}", limit=1)) == 1  # no more is read than is asked for


def test_a_truncated_image_is_named(tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    for suffix in ("png", "jpg"):
        path = tmp_path / "a" / f"x.{suffix}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(CasemateError, match=rf"a/x\.{suffix} cannot be used"):
            load(f"folder:{tmp_path}")
        path.unlink()


def test_a_folder_among_the_images_is_named(tmp_path) -> None:
    write(tmp_path / "a" / "deeper" / "x.png")
    with pytest.raises(CasemateError, match=r"a/deeper cannot be used \(Is a directory\)"):
        load(f"folder:{tmp_path}")
