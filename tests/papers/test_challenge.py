"""Submissions to the challenges: the published checks at their edges, the score by hand, and files bit for bit."""

import io
import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from challenge_toys import TINY, TINY_CIFAR10, TINY_MNIST, dataset, in_file, network
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from casemate import CasemateError, Linf, image_keys
from casemate.audit.statistics import clopper_pearson
from casemate.papers.madry2018.challenge import (
    CHALLENGES,
    CIFAR10,
    MNIST,
    Challenge,
    Submission,
    read_submission,
    save_array,
    write_submission,
)
from casemate.papers.madry2018.challenge_score import score
from casemate.papers.madry2018.leaderboards import Entry, Track

both = pytest.mark.parametrize("challenge", TINY, ids=lambda challenge: challenge.data)


def read(challenge: Challenge, array: np.ndarray, folder: Path) -> Submission:
    np.save(folder / "s.npy", array)
    return read_submission(challenge, folder / "s.npy", dataset(challenge).images)


def void(challenge: Challenge, array: np.ndarray, folder: Path) -> str:
    with pytest.raises(CasemateError) as refusal:
        read(challenge, array, folder)
    return str(refusal.value)


def test_the_challenges_are_the_published_ones() -> None:
    assert MNIST.shape == (10_000, 784)
    assert CIFAR10.shape == (10_000, 32, 32, 3)
    assert MNIST.threat == Linf(0.3)
    assert CIFAR10.threat == Linf(8 / 255)
    assert CHALLENGES == {"mnist": MNIST, "cifar10": CIFAR10}


@both
def test_clean_images_are_a_submission_that_reads_back_as_they_are(challenge: Challenge, tmp_path: Path) -> None:
    x = dataset(challenge).images
    for dtype in ("<f4", ">f4", "<f8"):
        submission = read(challenge, in_file(challenge, x).astype(dtype), tmp_path)
        assert torch.equal(submission.images, x)
        assert not submission.distance.any()
        assert submission.inside.all()
    assert torch.equal(read(challenge, np.asfortranarray(in_file(challenge, x)), tmp_path).images, x)


def test_cifar10_takes_integers_channel_last_and_mnist_does_not(tmp_path: Path) -> None:
    x = dataset(TINY_CIFAR10).images
    pixels = in_file(TINY_CIFAR10, x)
    moved = np.where(pixels < 128, pixels + 8, pixels - 8)
    for dtype in (np.uint8, np.int64):
        submission = read(TINY_CIFAR10, moved.astype(dtype), tmp_path)
        assert submission.distance.tolist() == [8.0] * 5
        assert submission.inside.all()
        assert submission.images[2, 1, 3, 4] == np.float32(moved[2, 3, 4, 1] / 255)
    assert "uint8" in void(TINY_MNIST, np.zeros((9, 784), np.uint8), tmp_path)


@both
@pytest.mark.parametrize("dtype", [bool, np.complex64, "U1", [("a", "f4")]])
def test_what_is_no_number_is_refused(challenge: Challenge, dtype: object, tmp_path: Path) -> None:
    assert "a submission for" in void(challenge, np.zeros(challenge.shape, dtype), tmp_path)


@both
def test_another_shape_is_refused_before_the_file_is_read(challenge: Challenge, tmp_path: Path) -> None:
    array = in_file(challenge, dataset(challenge).images)
    for other in (array[:-1], array[None], array.reshape(len(array), -1, 1), np.zeros(0)):
        assert str(other.shape) in void(challenge, other, tmp_path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (10**9, 784), "fortran_order": False, "descr": "<f8"})
    (tmp_path / "huge.npy").write_bytes(header.getvalue())
    with pytest.raises(CasemateError, match=r"huge\.npy is void"):
        read_submission(challenge, tmp_path / "huge.npy", dataset(challenge).images)


def test_cifar10_with_the_channel_first_is_refused(tmp_path: Path) -> None:
    array = in_file(TINY_CIFAR10, dataset(TINY_CIFAR10).images)
    assert "(5, 32, 32, 3)" in void(TINY_CIFAR10, array.transpose(0, 3, 1, 2), tmp_path)


@both
def test_nothing_is_unpickled(challenge: Challenge, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    array = np.empty(challenge.shape, dtype=object)
    array.fill(Bomb())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.save(tmp_path / "bomb.npy", array, allow_pickle=True)
    with pytest.raises(CasemateError, match="void"):
        read_submission(challenge, tmp_path / "bomb.npy", dataset(challenge).images)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00\x05\x00{1:", b"\x93NUMPY\x01\x00"])
def test_damaged_files_are_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.npy").write_bytes(content)
    with pytest.raises(CasemateError, match="is void"):
        read_submission(TINY_MNIST, tmp_path / "s.npy", dataset(TINY_MNIST).images)
    np.savez(tmp_path / "s.npz", x=np.zeros((9, 784)))
    with pytest.raises(CasemateError, match="is void"):
        read_submission(TINY_MNIST, tmp_path / "s.npz", dataset(TINY_MNIST).images)
    with pytest.raises(CasemateError, match="absent"):
        read_submission(TINY_MNIST, tmp_path / "nothing.npy", dataset(TINY_MNIST).images)
    with pytest.raises(CasemateError, match="void"):
        read_submission(TINY_MNIST, tmp_path, dataset(TINY_MNIST).images)


@both
def test_the_edge_of_the_tolerance_on_eps(challenge: Challenge, tmp_path: Path) -> None:
    array = in_file(challenge, dataset(challenge).images)
    array.reshape(len(array), -1)[4, 7] = 0.0
    clean = dataset(challenge).images.clone()
    clean[4] = torch.from_numpy(array[4]).view(*challenge.image[1:], challenge.image[0]).permute(2, 0, 1) / (
        challenge.scale
    )
    edge = challenge.eps + 1e-4
    for change, passes in ((edge, True), (np.nextafter(edge, 9), False), (edge + 1e-3, False)):
        array.reshape(len(array), -1)[4, 7] = change
        np.save(tmp_path / "s.npy", array)
        if passes:
            submission = read_submission(challenge, tmp_path / "s.npy", clean)
            assert submission.distance[4] == edge
            assert submission.inside.tolist() == [index != 4 for index in range(len(array))]
        else:
            with pytest.raises(CasemateError, match=r"image 4 is moved by") as refusal:
                read_submission(challenge, tmp_path / "s.npy", clean)
            assert f"{change - challenge.eps:.9g} more" in str(refusal.value)


@both
@pytest.mark.parametrize("top", [True, False])
def test_the_edge_of_the_tolerance_on_the_range(challenge: Challenge, top: bool, tmp_path: Path) -> None:
    array = in_file(challenge, dataset(challenge).images)
    flat = array.reshape(len(array), -1)
    place = int((flat[3] == (challenge.scale if top else 0)).argmax())
    edge = float(challenge.scale) + 1e-4 if top else -1e-4
    flat[3, place] = edge
    submission = read(challenge, array, tmp_path)
    assert submission.inside.tolist() == [index != 3 for index in range(len(array))]
    # Not clipped: the network sees what is in the file, as in the original script.
    assert (submission.images[3].max() > 1) == top
    flat[3, place] = np.nextafter(edge, np.inf if top else -np.inf)
    assert f"image 3 holds the value {edge:.9g}" in void(challenge, array, tmp_path)


@both
def test_nan_and_infinite_values_are_refused(challenge: Challenge, tmp_path: Path) -> None:
    array = in_file(challenge, dataset(challenge).images).astype(np.float32)
    for value, word in ((np.nan, "image 2 holds NaN"), (np.inf, "holds the value inf"), (-np.inf, "value -inf")):
        array.reshape(len(array), -1)[2, 5] = value
        assert word in void(challenge, array, tmp_path)


@both
def test_another_order_is_refused_and_recognised(challenge: Challenge, tmp_path: Path) -> None:
    array = in_file(challenge, dataset(challenge).images)
    array[[1, 3]] = array[[3, 1]]
    sentence = void(challenge, array, tmp_path)
    assert f"image 1 is image 3 of {challenge.data}[test]" in sentence
    assert "order" in sentence


@st.composite
def arrays(draw: st.DrawFn, challenge: Challenge) -> np.ndarray:
    """Clean images in the units of the file, with a few values moved to about the edges of the published checks."""
    array = in_file(challenge, dataset(challenge).images)
    flat = array.reshape(len(array), -1)
    change = st.sampled_from([0.0, 1.0, -1.0]).flatmap(
        lambda sign: st.sampled_from([0.5, 1.0]).map(lambda share: sign * share * challenge.eps)
    )
    noise = st.sampled_from([0.0, 0.9e-4, 1.1e-4, -0.9e-4, -1.1e-4, np.nan])
    for _ in range(draw(st.integers(0, 3))):
        row, column = draw(st.integers(0, len(array) - 1)), draw(st.integers(0, flat.shape[1] - 1))
        inside = np.clip(flat[row, column] + draw(change), 0, challenge.scale)
        flat[row, column] = inside + draw(noise)
    return array


def first_violation(array: np.ndarray, clean: np.ndarray, top: float, eps: float) -> int | None:
    """The published rules, value by value."""
    for index, (row, original) in enumerate(zip(array, clean, strict=True)):
        for value, was in zip(row.ravel().tolist(), original.ravel().tolist(), strict=True):
            if value != value or value > top + 1e-4 or value < -1e-4 or abs(value - was) > eps + 1e-4:
                return index
    return None


@pytest.mark.parametrize("challenge", TINY, ids=lambda challenge: challenge.data)
def test_a_submission_is_void_exactly_where_the_published_rules_say_so(
    challenge: Challenge, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, clean = tmp_path_factory.mktemp("rules"), in_file(challenge, dataset(challenge).images)

    @given(arrays(challenge))
    def check(array: np.ndarray) -> None:
        expected = first_violation(array, clean, challenge.scale, challenge.eps)
        if expected is None:
            read(challenge, array, folder)
        else:
            assert f"image {expected} " in void(challenge, array, folder)

    check()


@both
@given(data=st.data())
def test_what_is_written_is_read_back_inside_the_ball(
    challenge: Challenge, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("round") / "s.npy"
    seed = data.draw(st.integers(0, 2**31), label="seed")
    x = dataset(challenge, seed).images
    # To the very face of the ball and the box, or anywhere in it.
    reach = data.draw(st.sampled_from([0.3, 1.0, 1.5, 40.0]), label="reach")
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    x_adv = challenge.threat.project(x + reach * challenge.threat.eps * noise, x)
    write_submission(challenge, path, x_adv, x)

    stored = np.load(path, allow_pickle=False)
    assert stored.dtype == np.float32
    assert stored.shape == challenge.shape
    assert (np.abs(stored.astype(np.float64) - in_file(challenge, x)) <= challenge.eps).all()  # no room at all
    assert stored.min() >= 0
    assert stored.max() <= challenge.scale

    submission = read_submission(challenge, path, x)
    assert submission.inside.all()
    if challenge.scale == 1:
        assert torch.equal(submission.images, x_adv)
    else:
        assert (submission.images.double() - x_adv.double()).abs().max() <= 2 * 2.0**-24
    again = path.with_name("again.npy")
    write_submission(challenge, again, submission.images, x)
    assert again.read_bytes() == path.read_bytes()
    assert torch.equal(read_submission(challenge, again, x).images, submission.images)


def test_a_whole_step_at_every_byte_stays_in_the_ball_of_cifar10(tmp_path: Path) -> None:
    bytes_ = torch.arange(256, dtype=torch.float32).div(255)
    x = bytes_.repeat(12).view(1, 3, 32, 32)
    challenge = replace(CIFAR10, n_images=1)
    for sign in (-1, 1):
        x_adv = challenge.threat.project(x + sign * challenge.threat.eps, x)
        write_submission(challenge, tmp_path / "s.npy", x_adv, x)
        stored = np.load(tmp_path / "s.npy").astype(np.float64)
        pixels = np.round(x[0].permute(1, 2, 0).double().numpy() * 255)
        assert (np.abs(stored[0] - pixels) <= 8).all()
        np.testing.assert_allclose(stored[0], np.clip(pixels + 8 * sign, 0, 255), atol=1e-4)
        assert read_submission(challenge, tmp_path / "s.npy", x).inside.all()


@both
def test_images_outside_are_not_written(challenge: Challenge, tmp_path: Path) -> None:
    x = dataset(challenge).images
    x_adv = x.clone()
    x_adv[3, 0, 0, 0] += torch.where(x[3, 0, 0, 0] < 0.5, 1.01, -1.01) * challenge.threat.eps
    with pytest.raises(CasemateError, match="adversarial image 3 is outside linf"):
        write_submission(challenge, tmp_path / "s.npy", x_adv, x)
    with pytest.raises(CasemateError, match="whole test split"):
        write_submission(challenge, tmp_path / "s.npy", x[:3], x[:3])
    assert not list(tmp_path.iterdir())


def adversarial(challenge: Challenge, seed: int) -> torch.Tensor:
    data = dataset(challenge)
    keys = image_keys(seed, torch.arange(len(data)))
    return challenge.threat.sample(data.images, keys)


class Wrong(nn.Module):
    """Right on the images of `dataset` as `network` is, and wrong where the first value has moved."""

    def __init__(self, challenge: Challenge) -> None:
        super().__init__()
        self.inner, self.clean = network(challenge), dataset(challenge).images[:, 0, 0, 0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.inner(x)
        moved = (x[:, 0, 0, 0, None] != self.clean).all(dim=1)
        return torch.where(moved[:, None], -logits, logits)


def moved(challenge: Challenge, which: list[int], folder: Path, name: str, excess: float = 0.0) -> Submission:
    """The images `which` with their first value moved by eps and `excess`, in the units of the file."""
    data = dataset(challenge)
    array = in_file(challenge, data.images)
    for index in which:
        value = array[index].ravel()[0]
        step = challenge.eps + excess
        array[index].reshape(-1)[0] = value + step if value < challenge.scale / 2 else value - step
    np.save(folder / name, array)
    return read_submission(challenge, folder / name, data.images)


@both
def test_the_score_is_the_share_left_by_any_file(challenge: Challenge, tmp_path: Path) -> None:
    data, n = dataset(challenge), challenge.n_images
    entries = [moved(challenge, [0, 1], tmp_path, "a.npy"), moved(challenge, [1, 2], tmp_path, "b.npy")]
    result = score(Wrong(challenge), data, entries)
    # The last image is labelled wrongly: misclassified with no attack at all.
    assert result.clean.tolist() == [True] * (n - 1) + [False]
    assert [file.accuracy for file in result.files] == pytest.approx([(n - 3) / n] * 2)
    assert result.right.tolist() == [False] * 3 + [True] * (n - 4) + [False]
    assert result.accuracy == pytest.approx((n - 4) / n)
    assert result.interval == clopper_pearson(n - 4, n)
    assert result.verdicts == ["broken"] * 3 + ["unresolved"] * (n - 4) + ["misclassified"]
    assert (result.predictions == data.labels).tolist() == result.right.tolist()
    assert result.predictions[2] == result.files[1].predictions[2]
    alone = score(Wrong(challenge), data, entries[:1])
    assert torch.equal(alone.predictions, alone.files[0].predictions)


@both
def test_images_outside_by_rounding_count_as_published_and_are_not_broken(challenge: Challenge, tmp_path: Path) -> None:
    data, n = dataset(challenge), challenge.n_images
    inside = moved(challenge, [0], tmp_path, "in.npy")
    beyond = moved(challenge, [0, 1], tmp_path, "out.npy", excess=0.9e-4)
    result = score(Wrong(challenge), data, [beyond])
    assert result.files[0].outside == 2
    assert result.accuracy == pytest.approx((n - 3) / n)
    assert result.verdicts.count("broken") == 0
    assert result.bracket.attacked_accuracy == pytest.approx((n - 1) / n)
    together = score(Wrong(challenge), data, [beyond, inside])
    assert together.verdicts[:2] == ["broken", "unresolved"]
    assert together.accuracy == result.accuracy


@both
def test_an_attack_that_rights_a_misclassified_image_counts_as_published(challenge: Challenge, tmp_path: Path) -> None:
    data, n = dataset(challenge), challenge.n_images

    class Righted(Wrong):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = self.inner(x)
            is_moved = (x[:, 0, 0, 0, None] != self.clean).all(dim=1)
            aim = nn.functional.one_hot(data.labels[-1:], 10) * 99.0
            return torch.where(is_moved[:, None], aim, logits)

    result = score(Righted(challenge), data, [moved(challenge, [n - 1], tmp_path, "a.npy")])
    assert result.accuracy == 1
    assert result.clean_accuracy == pytest.approx((n - 1) / n)
    assert result.bracket.attacked_accuracy == pytest.approx((n - 1) / n)


def test_a_network_that_is_not_right_on_clean_images_has_no_score(tmp_path: Path) -> None:
    data = dataset(TINY_MNIST)
    entries = [moved(TINY_MNIST, [0], tmp_path, "a.npy")]
    shifted = nn.Sequential(network(TINY_MNIST), nn.Linear(10, 10, bias=False))
    with torch.no_grad():
        shifted[1].weight.copy_(torch.eye(10).roll(1, dims=0))
    with pytest.raises(CasemateError, match=r"right on \d+\.\d% of the clean images.*order of its classes"):
        score(shifted, data, entries)
    # 8 of 9: within a tenth of what the card says, or not.
    assert score(network(TINY_MNIST), data, entries, expected_clean=0.98).clean_accuracy == pytest.approx(8 / 9)
    with pytest.raises(CasemateError, match=r"88\.9% .* its card says 99\.5%"):
        score(network(TINY_MNIST), data, entries, expected_clean=0.995)


def test_the_network_sees_what_the_file_holds(tmp_path: Path) -> None:
    """Brute force: the original's own arithmetic, image by image, on the array in the file."""
    challenge, data = TINY_CIFAR10, dataset(TINY_CIFAR10)
    x_adv = adversarial(challenge, 5)
    write_submission(challenge, tmp_path / "s.npy", x_adv, data.images)
    result = score(network(challenge), data, [read_submission(challenge, tmp_path / "s.npy", data.images)])
    layer = network(challenge)[1]
    for index, image in enumerate(np.load(tmp_path / "s.npy")):
        flat = [float(image[i, j, c]) / 255 for c in range(3) for i in range(32) for j in range(32)]
        logits = layer.weight.detach().double().numpy() @ np.array(flat) + layer.bias.detach().double().numpy()
        assert result.predictions[index] == logits.argmax()


def test_an_array_is_saved_under_its_very_name(tmp_path: Path) -> None:
    save_array(tmp_path / "predictions", np.arange(3))
    assert np.load(tmp_path / "predictions").tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions"]


def test_leaderboards_are_sorted_and_hold_the_published_bounds() -> None:
    for challenge, best, worst in ((MNIST, (88.00, 92.76), (96.40, 97.79)), (CIFAR10, (43.95, 63.39), (55.55, 85.23))):
        tracks = challenge.tracks
        assert [track.name for track in tracks] == ["white box", "black box"]
        assert tuple(track.entries[0].accuracy for track in tracks) == best
        assert tuple(track.entries[-1].accuracy for track in tracks) == worst
        for track in tracks:
            accuracies = [entry.accuracy for entry in track.entries]
            assert accuracies == sorted(accuracies)
            assert len({entry.attack for entry in track.entries}) == len(accuracies)


def test_a_score_stands_behind_its_equals() -> None:
    track = Track("t", (Entry("a", 88.42), Entry("b", 92.52)))
    assert [track.place(share) for share in (0.8841, 0.8842, 0.9252, 0.9999)] == [1, 2, 3, 3]
    assert track.with_ours(0.9, "ours") == [Entry("a", 88.42), Entry("ours", 90.0), Entry("b", 92.52)]
