"""Randomness per image: against the published generator, in any batch, and as random as it says.

The seeds are fixed, so that nothing here is left to chance; each bound is one that a good generator exceeds with
probability below 1e-9.
"""

import pytest
import torch
from scipy import stats

from casemate import rng

GAMMA, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
P_VALUE = 1e-9


def keys(n: int, seed: int = 0) -> torch.Tensor:
    return rng.image_keys(seed, torch.arange(n))


def splitmix(state: int, n: int) -> list[int]:
    """SplitMix64 in arbitrary precision, as its paper writes it."""
    numbers = []
    for _ in range(n):
        state = (state + GAMMA) % 2**64
        z = (state ^ (state >> 30)) * MIX_1 % 2**64
        z = (z ^ (z >> 27)) * MIX_2 % 2**64
        numbers.append(z ^ (z >> 31))
    return numbers


def test_oracle_gives_the_published_numbers() -> None:
    # The first outputs for seed 1234567, as printed in the literature on the generator.
    assert splitmix(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("key", [0, 1, -1, 1234567, -(2**63), 2**63 - 1])
def test_uniform_is_the_top_24_bits_of_splitmix(key: int) -> None:
    drawn = rng.uniform(torch.tensor([key]), (50,))[0]
    assert drawn.tolist() == [(number >> 40) / 2**24 for number in splitmix(key % 2**64, 50)]


def test_numbers_of_an_image_do_not_depend_on_its_batch() -> None:
    index = torch.tensor([7, 3, 99, 0, 12])
    for draw in (rng.uniform, rng.normal, rng.exponential):
        whole = draw(rng.image_keys(5, torch.arange(100)), (2, 3))
        assert torch.equal(draw(rng.image_keys(5, index), (2, 3)), whole[index])
        assert torch.equal(draw(rng.image_keys(5, index[2:3]), (2, 3)), whole[99:100])


def test_numbers_do_not_depend_on_how_many_are_asked_for() -> None:
    assert torch.equal(rng.uniform(keys(4), (3, 10)).flatten(1), rng.uniform(keys(4), (30,)))
    assert torch.equal(rng.uniform(keys(4), (5,)), rng.uniform(keys(4), (30,))[:, :5])


def test_shapes_and_types() -> None:
    assert keys(3).dtype == torch.int64
    for draw in (rng.uniform, rng.normal, rng.exponential):
        assert draw(keys(3), (1, 5, 7)).shape == (3, 1, 5, 7)
        assert draw(keys(3), (2,)).dtype == torch.float32
        assert draw(keys(0), (2,)).shape == (0, 2)


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    rng.normal(rng.fold(keys(3), "a", 1), (4,))
    assert torch.equal(before, torch.get_rng_state())


def test_extreme_bits_stay_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    for bits in (-1, 0):
        monkeypatch.setattr(rng, "_bits", lambda keys, shape, bits=bits: torch.full((len(keys), *shape), bits))
        assert 0 <= float(rng.uniform(keys(1), (1,))) < 1
        assert rng.normal(keys(1), (1,)).isfinite().all()
        assert rng.exponential(keys(1), (1,)).isfinite().all()


@pytest.mark.parametrize(
    ("draw", "distribution"), [(rng.uniform, "uniform"), (rng.normal, "norm"), (rng.exponential, "expon")]
)
def test_distributions(draw, distribution: str) -> None:  # type: ignore[no-untyped-def]
    across_images = draw(keys(50_000), (1,)).flatten()
    within_one = draw(keys(1), (50_000,)).flatten()
    for numbers in (across_images, within_one):
        assert stats.kstest(numbers.double().numpy(), distribution).pvalue > P_VALUE


def test_moments_of_the_normal() -> None:
    numbers = rng.normal(keys(1000), (1000,)).double()
    # Standard errors of the first four moments of 10^6 standard normals; 6.2 of them are exceeded once in 10^9.
    for power, mean, error in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs(float(numbers.pow(power).mean()) - mean) < 6.2 * error / 1000


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1])


@pytest.mark.parametrize(
    "other",
    [
        lambda: rng.uniform(keys(1001)[1:], (100,)),
        lambda: rng.uniform(keys(1000, seed=1), (100,)),
        lambda: rng.uniform(rng.fold(keys(1000), "pgd"), (100,)),
        lambda: rng.uniform(rng.fold(keys(1000), 0), (100,)),
        lambda: rng.uniform(keys(1000), (101,))[:, 1:],
        lambda: rng.uniform(keys(1000) + 1, (100,)),
    ],
    ids=["next image", "other seed", "folded", "folded with a number", "next number", "next key"],
)
def test_streams_are_uncorrelated(other) -> None:  # type: ignore[no-untyped-def]
    # The correlation of 10^5 pairs has a standard error of 0.0032.
    assert abs(correlation(rng.uniform(keys(1000), (100,)), other())) < 6.2 * 0.0032


def test_keys_do_not_collide() -> None:
    # Among 9 x 10^4 random 64-bit keys two agree with probability 2e-10.
    seeds = [keys(10_000, seed) for seed in range(3)]
    folded = [rng.fold(seeds[0], *labels) for labels in (("a",), ("b",), ("a", "b"), ("b", "a"), ("1",), (1,))]
    assert len(torch.cat([*seeds, *folded]).unique()) == 90_000


def test_fold_takes_labels_one_by_one() -> None:
    assert torch.equal(rng.fold(keys(5), "pgd", 3), rng.fold(rng.fold(keys(5), "pgd"), 3))
    assert torch.equal(rng.fold(keys(5)), keys(5))


def test_keys_are_the_same_in_every_process() -> None:
    # Stored evidence is replayed years later: these numbers are part of the format.
    assert keys(2, seed=0).tolist() == [-1345896262768571951, 5799852861228942251]
    assert rng.fold(keys(1), "pgd", 3).tolist() == [7703570449265997084]


def test_layer_keys_follow_the_images_inside_and_the_global_generator_outside() -> None:
    x = torch.zeros(3, 1, 2, 2)
    with rng.drawing_from(keys(3)):
        inside = rng.layer_keys(x, "noise")
        assert torch.equal(inside, rng.fold(keys(3), "noise"))
        assert not torch.equal(inside, rng.layer_keys(x, "other"))
        with rng.drawing_from(keys(3, seed=1)):
            assert torch.equal(rng.layer_keys(x, "noise"), rng.fold(keys(3, seed=1), "noise"))
        assert torch.equal(rng.layer_keys(x, "noise"), inside)
    torch.manual_seed(3)
    outside = rng.layer_keys(x, "noise")
    assert not torch.equal(outside, rng.layer_keys(x, "noise"))
    torch.manual_seed(3)
    assert torch.equal(outside, rng.layer_keys(x, "noise"))


def test_drawing_from_ends_with_an_exception() -> None:
    with pytest.raises(KeyError), rng.drawing_from(keys(2)):
        raise KeyError
    torch.manual_seed(0)
    first = rng.layer_keys(torch.zeros(2, 1), "noise")
    assert not torch.equal(first, rng.layer_keys(torch.zeros(2, 1), "noise"))
