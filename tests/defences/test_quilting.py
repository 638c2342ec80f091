"""Quilts are of the nearest patches, drawn evenly among them and sewn along the cheapest seams."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from casemate import rng
from casemate.data import load
from casemate.defences import Quilting, patch_bank, quilting
from casemate.defences.quilting import _seam
from casemate.errors import CasemateError
from casemate.testing import check_defence


def byte_images(*shape: int) -> Tensor:
    return torch.randint(256, shape) / 255


def drawn(layer: nn.Module, x: Tensor) -> Tensor:
    with rng.drawing_from(rng.image_keys(0, torch.arange(len(x)))):
        return layer(x)


@pytest.mark.parametrize("n_neighbours", [10, 1])
@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 8, 9)])
def test_conforms(image_shape: tuple[int, ...], n_neighbours: int) -> None:
    bank = patch_bank(torch.rand(20, *image_shape), 300)
    check_defence(Quilting(bank, n_neighbours=n_neighbours), image_shape=image_shape)


@pytest.mark.parametrize("size", [(5, 5), (11, 17), (12, 10), (4, 3)])
def test_an_image_whose_own_patches_are_the_bank_comes_back(size: tuple[int, int]) -> None:
    x = byte_images(1, 3, *size)
    # The edge goes on for patches that reach over it.
    wide = nn.functional.pad(x, (0, 4, 0, 4), mode="replicate")
    bank = wide.unfold(2, 5, 1).unfold(3, 5, 1).flatten(2, 3)[0].movedim(1, 0)
    assert torch.equal(Quilting(bank, n_neighbours=1)(x), x)
    assert not torch.equal(Quilting(bank[1:], n_neighbours=1)(x), x)


def test_each_of_the_nearest_patches_is_drawn_as_often() -> None:
    x, bank = byte_images(1, 3, 5, 5), byte_images(200, 3, 5, 5)
    distances = (bank - x).square().sum(dim=(1, 2, 3))
    nearest = bank[distances.argsort()[:4]]
    n = 4000
    answer = drawn(Quilting(bank, n_neighbours=4), x.expand(n, -1, -1, -1))
    drawn_ones = (answer[:, None] == nearest).flatten(2).all(dim=2)
    assert drawn_ones.sum() == n
    # Hoeffding: a share of n draws is 0.05 off with probability 2 exp(-2 n 0.05^2) < 1e-8.
    assert (drawn_ones.float().mean(dim=0) - 0.25).abs().max() < 0.05


def test_patches_of_one_image_are_drawn_apart() -> None:
    # 100 patches with a choice of two each: all alike with probability 2^-99.
    bank = torch.stack([torch.zeros(1, 5, 5), torch.ones(1, 5, 5)])
    answer = drawn(Quilting(bank, n_neighbours=2), torch.full((1, 1, 32, 32), 0.5))
    assert answer.unique().tolist() == [0, 1]


def test_neighbours_do_not_depend_on_how_many_are_sought_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load("digits-sample", "train", limit=50).images
    # Many patches of digits are black, or equally far from another.
    layer, x = Quilting(patch_bank(digits, 500)), load("digits-sample", "test", limit=4).images
    answer = drawn(layer, x)
    for at_once in (1, 1500):
        monkeypatch.setattr(quilting, "DISTANCES_AT_ONCE", at_once)
        assert torch.equal(drawn(layer, x), answer)


def paths(length: int, width: int) -> list[tuple[int, ...]]:
    return [
        path
        for path in itertools.product(range(width), repeat=length)
        if all(abs(here - there) <= 1 for here, there in itertools.pairwise(path))
    ]


@pytest.mark.parametrize(("length", "width"), [(5, 2), (4, 4), (1, 3), (3, 1)])
def test_seams_are_the_cheapest_of_all_paths(length: int, width: int) -> None:
    difference = torch.rand(50, length, width)
    found = _seam(difference)
    possible = paths(length, width)
    costs = torch.stack([difference[:, range(length), path].sum(dim=1) for path in possible])
    assert [tuple(path) for path in found.tolist()] == [possible[best] for best in costs.argmin(dim=0)]


@pytest.mark.parametrize("beside", [True, False])
def test_the_newer_patch_lies_on_its_side_of_the_cheapest_seam(beside: bool) -> None:
    first, second = byte_images(3, 5, 5), byte_images(3, 5, 5)
    second[0, :, 2:], first[0, :, :3] = 1, 0
    cheapest = min(
        paths(5, 2),
        key=lambda path: sum((first[:, y, 3 + x] - second[:, y, x]).square().sum() for y, x in enumerate(path)),
    )
    expected = torch.cat([first, torch.zeros(3, 5, 3)], dim=2)
    for y, x in enumerate(cheapest):
        expected[:, y, 3 + x :] = second[:, y, x:]
    # An image whose two patches are nearer to these than to each other.
    image = torch.cat([first[:, :, :4], second[:, :, 1:]], dim=2)
    bank = torch.stack([first, second])
    if not beside:
        image, expected, bank = image.mT, expected.mT, bank.mT
    assert torch.equal(Quilting(bank, n_neighbours=1)(image[None])[0], expected)


def test_where_two_seams_meet_the_newer_patch_is_below_and_right_of_both() -> None:
    corners = byte_images(4, 1, 5, 5)
    image = torch.zeros(1, 8, 8)
    for corner, (top, left) in zip(corners, [(0, 0), (0, 3), (3, 0), (3, 3)], strict=True):
        image[:, top : top + 5, left : left + 5] = corner
    sewn = Quilting(corners, n_neighbours=1)(image[None])[0, 0]
    # Outside the overlaps each patch is whole.
    for (top, left), corner in zip([(0, 0), (0, 5), (5, 0), (5, 5)], corners, strict=True):
        inside = corner[0, (2 if top else 0) :, (2 if left else 0) :][:3, :3]
        assert torch.equal(sewn[top : top + 3, left : left + 3], inside)
    # In the middle each pixel is of one of the four that lie there.
    for y, x in itertools.product((3, 4), (3, 4)):
        there = [corners[0, 0, y, x], corners[1, 0, y, x - 3], corners[2, 0, y - 3, x], corners[3, 0, y - 3, x - 3]]
        assert sewn[y, x] in torch.stack(there)


def test_a_copy_in_low_precision_keeps_the_bank() -> None:
    layer, x = Quilting(byte_images(60, 3, 5, 5)), byte_images(2, 3, 11, 11)
    assert torch.equal(drawn(layer.to(torch.bfloat16), x), drawn(Quilting(layer.bank / 255), x))


def test_a_bank_holds_patches_from_all_over_the_images() -> None:
    # Each pixel is another number, so that a patch tells where it is from.
    images = torch.arange(3 * 2 * 7 * 6).view(3, 2, 7, 6) / 252
    whole = images.unfold(2, 5, 1).unfold(3, 5, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    bank = patch_bank(images, 500)
    found = (bank[:, None] == whole).flatten(2).all(dim=2)
    assert torch.equal(found.sum(dim=1), torch.ones(500, dtype=torch.int64))
    # One of the 18 places is missing with probability 18 (17/18)^500 < 1e-11.
    assert found.any(dim=0).all()
    assert torch.equal(patch_bank(images, 500), bank)
    assert not torch.equal(patch_bank(images, 500, seed=1), bank)


@pytest.mark.parametrize(
    ("shape", "settings", "sentence"),
    [
        ((20, 3, 5, 4), {}, "holds square patches"),
        ((20, 3, 7, 7), {}, "up to 129 values"),
        ((20, 75), {}, "holds square patches"),
        ((9, 3, 5, 5), {}, "has no 10 neighbours"),
        ((20, 3, 5, 5), {"overlap": 5}, "overlap by less"),
        ((20, 3, 5, 5), {"overlap": 0}, "overlap must be a whole number"),
        ((20, 3, 5, 5), {"n_neighbours": 0}, "n_neighbours must be a whole number"),
    ],
)
def test_bad_settings_are_refused(shape: tuple[int, ...], settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(CasemateError, match=sentence):
        Quilting(torch.rand(shape), **settings)


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(CasemateError, match="patches of 1 channels and the images have 3"):
        Quilting(torch.rand(20, 1, 5, 5))(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 3, 4, 8)])
def test_images_without_a_patch_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CasemateError, match="hold no patch of 5x5"):
        patch_bank(torch.rand(shape))
