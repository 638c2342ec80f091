import pytest
import torch
from training_toys import quick

from casemate import rng
from casemate.data import Dataset
from casemate.errors import CasemateError
from casemate.training.batches import Batches, batch_index, cropped, hold_out

CPU = torch.device("cpu")


def digits(n: int) -> Dataset:
    """Image i is constant at i / n."""
    images = (torch.arange(n) / n).view(n, 1, 1, 1).expand(n, 1, 4, 4).contiguous()
    return Dataset("digits-sample", "train", images, torch.arange(n) % 10, tuple("0123456789"))


@pytest.mark.parametrize(("n", "batch_size"), [(40, 8), (43, 8), (8, 8)])
def test_an_epoch_takes_each_image_at_most_once_and_all_of_them_where_they_fill_batches(
    n: int, batch_size: int
) -> None:
    per_epoch = n // batch_size
    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        taken = torch.cat([batch_index(n, batch_size, number, 0) for number in steps]).tolist()
        assert len(set(taken)) == len(taken) == per_epoch * batch_size
        assert set(taken) <= set(range(n))


def test_epochs_and_seeds_differ_and_each_can_be_had_again() -> None:
    first, second = batch_index(40, 40, 0, 0), batch_index(40, 40, 1, 0)
    assert not torch.equal(first, second)
    assert not torch.equal(first, batch_index(40, 40, 0, 1))
    assert torch.equal(first, batch_index(40, 40, 0, 0))


def test_held_out_images_are_never_trained_on() -> None:
    train, held = hold_out(50, 12, seed=3)
    assert sorted(train.tolist() + held.tolist()) == list(range(50))
    assert len(held) == 12
    batches = Batches(digits(50), quick(hold_out=12, batch_size=8, epochs=3), CPU)
    assert batches.per_epoch == 4
    assert batches.total == 12
    trained = torch.cat([batches(number).x[:, 0, 0, 0] for number in range(batches.total)])
    assert not set(trained.tolist()) & set(batches.held.x[:, 0, 0, 0].tolist())
    assert len(set(trained.tolist())) == 38  # all of the others, in three epochs of 32


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_each_batch_and_every_image_keeps_its_key(world: int) -> None:
    recipe = quick(hold_out=10, batch_size=8)
    alone = Batches(digits(50), recipe, CPU)
    shares = [Batches(digits(50), recipe, CPU, rank, world) for rank in range(world)]
    for number in (0, 7):
        whole, parts = alone(number), [share(number) for share in shares]
        assert [len(part.x) for part in parts] == [8 // world] * world
        key_of = dict(zip(whole.x[:, 0, 0, 0].tolist(), whole.keys.tolist(), strict=True))
        assert key_of == {
            image: key
            for part in parts
            for image, key in zip(part.x[:, 0, 0, 0].tolist(), part.keys.tolist(), strict=True)
        }
        for part in parts:
            assert torch.equal((part.x[:, 0, 0, 0] * 50).round().long() % 10, part.y)
    assert not set(alone(0).keys.tolist()) & set(alone(7).keys.tolist())


@pytest.mark.parametrize("flip", [False, True])
def test_crops_and_flips_are_those_of_brute_force(flip: bool) -> None:
    pad, x, keys = 3, torch.rand(20, 2, 5, 7), rng.image_keys(0, torch.arange(20))
    found = cropped(x, keys, pad=pad, flip=flip)
    where, mirrored = set(), 0
    for image, crop in zip(x, found, strict=True):
        padded = torch.zeros(2, 5 + 2 * pad, 7 + 2 * pad)
        padded[:, pad : pad + 5, pad : pad + 7] = image
        matches = [
            (top, left, mirror)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            for mirror in ((False, True) if flip else (False,))
            for candidate in [padded[:, top : top + 5, left : left + 7]]
            if torch.equal(candidate.flip(2) if mirror else candidate, crop)
        ]
        assert len(matches) == 1
        where.add(matches[0][:2])
        mirrored += matches[0][2]
    assert len(where) > 10
    assert 3 < mirrored < 17 if flip else mirrored == 0


def test_augmentation_is_new_at_every_step_and_does_not_touch_what_is_held_out() -> None:
    recipe = quick(hold_out=10, batch_size=40, augment="shift")
    batches = Batches(digits(50), recipe, CPU)
    shapes = [{float(image.sum()) for image in batches(number).x} for number in (0, 1, 0)]
    assert shapes[0] == shapes[2] != shapes[1]
    plain = Batches(digits(50), quick(hold_out=10, batch_size=40), CPU)
    assert torch.equal(batches.held.x, plain.held.x)


def test_too_few_images_are_one_sentence() -> None:
    with pytest.raises(CasemateError, match="has 50 training images: too few to hold out 45 and fill a batch of 8"):
        Batches(digits(50), quick(hold_out=45, batch_size=8), CPU)
