import math

import pytest
import torch
from torch import Tensor

from casemate.classifier import Normalise, PerImageStandardise, check_batch, check_logits
from casemate.errors import CasemateError


def test_normalise_is_per_channel_and_travels_with_the_weights() -> None:
    layer = Normalise((0.5, 0.25), (0.5, 2.0))
    x = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1).expand(3, 2, 4, 4)
    assert torch.equal(layer(x)[:, 0], torch.ones(3, 4, 4))
    assert torch.equal(layer(x)[:, 1], torch.full((3, 4, 4), 0.375))
    assert set(layer.state_dict()) == {"mean", "std"}
    assert not list(layer.parameters())


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (1.0, 1.0)), ((), ()), ((0.5,), (0.0,)), ((0.5,), (math.nan,))])
def test_normalise_refuses_what_it_cannot_divide_by(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(CasemateError, match="std"):
        Normalise(mean, std)


def test_per_image_standardise_is_the_papers_formula_on_values_from_0_to_255() -> None:
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[1] = 0.5 + 1e-5 * (x[1] - 0.5)  # below the floor on the standard deviation
    raw = 255 * x.double()
    mean = raw.mean(dim=(1, 2, 3), keepdim=True)
    std = raw.std(dim=(1, 2, 3), keepdim=True, correction=0)
    expected = (raw - mean) / std.clamp(min=1 / math.sqrt(3 * 8 * 8))
    assert std[1].item() < 1 / math.sqrt(3 * 8 * 8)
    torch.testing.assert_close(PerImageStandardise()(x.double()), expected)
    torch.testing.assert_close(PerImageStandardise()(x), expected.float(), rtol=1e-4, atol=1e-4)


def test_per_image_standardise_lets_the_gradient_through_mean_and_deviation() -> None:
    layer = PerImageStandardise()
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    weight = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((layer(x) * weight).sum(), x)
    # The output does not change when an image is made brighter or its contrast greater: no gradient that way.
    torch.testing.assert_close(gradient.sum(dim=(1, 2, 3)), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close((gradient * x).sum(dim=(1, 2, 3)), torch.zeros(2, dtype=torch.float64))


def test_per_image_standardise_has_a_finite_gradient_on_an_image_of_one_colour() -> None:
    x = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(PerImageStandardise()(x)[0, 0, 0, 0], x)
    assert gradient.isfinite().all()
    assert gradient[0, 0, 0, 0] > 0


@pytest.mark.parametrize("n_classes", [2, 10, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_logits_pass(n_classes: int, dtype: torch.dtype) -> None:
    logits = torch.randn(5, n_classes, generator=torch.Generator().manual_seed(0)).to(dtype)
    check_logits(logits, 5, what="the model")
    check_logits(logits.log_softmax(dim=1), 5, what="the model")
    check_logits(logits[:0], 0, what="the model")


def _with(value: float, row: int) -> Tensor:
    logits = torch.zeros(4, 3)
    logits[row, 1] = value
    return logits


@pytest.mark.parametrize(
    ("logits", "sentence"),
    [
        ((torch.zeros(4, 3),), "the model returned a tuple; it must return one tensor"),
        (torch.zeros(4, 3, 1), r"returned shape \[4, 3, 1\] for 4 images; .* \[4, classes\]"),
        (torch.zeros(3, 3), r"returned shape \[3, 3\] for 4 images"),
        (torch.zeros(4, 1), "at least 2 classes"),
        (torch.zeros(4), r"returned shape \[4\]"),
        (torch.zeros(4, 3, dtype=torch.int64), "returned int64 values; it must return floating-point logits"),
        (_with(math.nan, 2), "returned NaN among the logits of image 2"),
        (_with(math.inf, 3), "returned infinite values among the logits of image 3"),
        (_with(-math.inf, 1), "returned infinite values among the logits of image 1"),
        (torch.randn(4, 3).softmax(dim=1), "returned probabilities; return the values before the softmax"),
        (torch.randn(4, 1000).softmax(dim=1), "probabilities"),
        (torch.eye(4), "probabilities"),
    ],
)
def test_what_is_not_logits_is_refused_in_a_sentence(logits: object, sentence: str) -> None:
    with pytest.raises(CasemateError, match=sentence):
        check_logits(logits, 4, what="the model")


def test_logits_are_not_taken_for_probabilities_by_chance() -> None:
    probabilities = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    check_logits(probabilities[:1], 1, what="the model")  # one row alone says little
    check_logits(probabilities * 1.001, 4, what="the model")
    shifted = probabilities - 0.5
    shifted[:, 0] += 1.5  # rows still sum to 1, some values are negative
    assert (shifted < 0).any()
    check_logits(shifted, 4, what="the model")


def test_batches_pass() -> None:
    x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 9])
    x[0, 0, 0] = torch.tensor([0.0, 1.0])
    check_batch(x, y, 10)
    check_batch(x, y)
    check_batch(x[:0], y[:0], 10)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        ([[0.0]], r"images must be float32 \[N, channel, height, width\] in \[0, 1\], got a list"),
        (torch.zeros(3, 4, 4), r"got float32 \[3, 4, 4\]"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), "got uint8"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.float64), "got float64"),
    ],
)
def test_images_of_the_wrong_kind_are_refused(x: object, sentence: str) -> None:
    with pytest.raises(CasemateError, match=sentence):
        check_batch(x, torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (math.nan, "image 1 holds NaN"),
        (math.inf, "image 1 holds values from 0 to inf"),
        (255.0, r"image 1 holds values from 0 to 255; scale images to \[0, 1\]"),
        (-1e-7, "image 1 holds values from -1e-07 to 0"),
        (1.0 + 2**-23, "image 1 holds values"),
    ],
)
def test_the_first_image_out_of_range_is_named(value: float, sentence: str) -> None:
    x = torch.zeros(3, 1, 2, 2)
    x[1:, 0, 1, 1] = value
    with pytest.raises(CasemateError, match=sentence):
        check_batch(x, torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        ([0, 1, 2], "labels must be int64 .* got a list"),
        (torch.zeros(3), r"labels must be int64 \[3\], one for each image, got float32 \[3\]"),
        (torch.zeros(2, dtype=torch.int64), r"got int64 \[2\]"),
        (torch.zeros(3, 1, dtype=torch.int64), r"got int64 \[3, 1\]"),
        (torch.tensor([0, 10, -1]), "image 1 has label 10; labels must be 0 to 9"),
        (torch.tensor([0, 9, -1]), "image 2 has label -1; labels must be 0 to 9"),
    ],
)
def test_labels_of_the_wrong_kind_or_out_of_range_are_refused(y: object, sentence: str) -> None:
    with pytest.raises(CasemateError, match=sentence):
        check_batch(torch.zeros(3, 1, 2, 2), y, 10)


def test_a_negative_label_is_refused_whatever_the_number_of_classes() -> None:
    with pytest.raises(CasemateError, match="image 0 has label -1; labels must be 0 or more"):
        check_batch(torch.zeros(1, 1, 2, 2), torch.tensor([-1]))
