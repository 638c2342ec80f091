"""Crops are rescaled as torch does, come from everywhere equally, and their ensemble averages probabilities."""

import pytest
import torch
from torch import Tensor, nn

from casemate import rng
from casemate.defences import CropEnsemble, CropRescale
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import cross_entropy
from casemate.testing import check_defence


def drawn(layer: nn.Module, x: Tensor) -> Tensor:
    with rng.drawing_from(rng.image_keys(0, torch.arange(len(x)))):
        return layer(x)


def network(side: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(side * side, 5))


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 8, 9)])
def test_conforms(image_shape: tuple[int, ...]) -> None:
    check_defence(CropRescale(), image_shape=image_shape)


@pytest.mark.parametrize(("side", "cropped"), [(224, 90), (32, 13), (28, 11)])
def test_a_crop_is_the_papers_part_of_the_image(side: int, cropped: int) -> None:
    numbered = (torch.arange(side) / (side - 1)).expand(1, 1, 1, side)
    answer = CropRescale()(numbered)
    width = round(float(answer.max() - answer.min()) * (side - 1)) + 1
    assert width == cropped


def test_crops_are_rescaled_as_torch_does() -> None:
    x = torch.rand(40, 3, 10, 15)
    # The value in the corner is that of the crop's own corner: the outermost centres are never left.
    x[:, 0] = torch.arange(150).view(10, 15) / 150
    answer = drawn(CropRescale(0.4), x)
    for image, rescaled in zip(x, answer, strict=True):
        top, left = divmod(round(float(rescaled[0, 0, 0]) * 150), 15)
        crop = image[None, :, top : top + 4, left : left + 6]
        expected = nn.functional.interpolate(crop, (10, 15), mode="bilinear")[0]
        assert torch.allclose(rescaled, expected, atol=1e-5)


def test_crops_come_from_every_place() -> None:
    x = (torch.arange(100) / 100).view(10, 10).expand(3000, 1, 10, 10)
    corners = (drawn(CropRescale(0.4), x)[:, 0, 0, 0] * 100).round().int()
    # 49 places of the same probability: one is missing with probability 49 (48/49)^3000 < 1e-24.
    assert set(corners.tolist()) == {10 * top + left for top in range(7) for left in range(7)}


def test_the_ensemble_is_the_mean_of_the_probabilities_over_its_crops() -> None:
    x, classifier = torch.rand(6, 1, 12, 12), network(12)
    answer = drawn(CropEnsemble(classifier, 7), x)
    keys = rng.fold(rng.image_keys(0, torch.arange(6)), "crop-ensemble")
    probabilities = torch.zeros(6, 5)
    for draw in range(7):
        with rng.drawing_from(rng.fold(keys, draw)):
            probabilities += classifier(CropRescale()(x)).softmax(dim=1) / 7
    assert torch.allclose(answer.softmax(dim=1), probabilities, atol=1e-6)
    assert torch.allclose(answer.logsumexp(dim=1), torch.zeros(6), atol=1e-6)


def test_the_ensemble_has_thirty_crops_and_each_is_another() -> None:
    seen = []
    classifier = network(12)
    classifier.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    drawn(CropEnsemble(classifier), torch.rand(1, 1, 12, 12))
    assert len(seen) == 30
    # 64 places: 30 draws fall on fewer than 10 of them with probability below comb(64, 9) (9/64)^30 < 1e-14.
    assert len({crop.numpy().tobytes() for crop in seen}) >= 10


def test_an_engine_takes_the_ensemble_image_by_image() -> None:
    x, y = torch.rand(20, 1, 12, 12), torch.zeros(20, dtype=torch.int64)
    keys = rng.image_keys(0, torch.arange(20))
    engine = Engine(CropEnsemble(network(12), 3), precision="float32")
    logits = engine.logits(x, keys=keys)
    gradient, _ = engine.gradient(x, y, cross_entropy, keys=keys)
    part = torch.tensor([3, 17])
    assert torch.allclose(engine.logits(x[part], keys=keys[part]), logits[part], atol=1e-6)
    assert torch.allclose(
        engine.gradient(x[part], y[part], cross_entropy, keys=keys[part])[0], gradient[part], atol=1e-6
    )
    assert (gradient != 0).flatten(1).any(dim=1).all()
    assert not torch.equal(engine.logits(x, keys=rng.image_keys(1, torch.arange(20))), logits)


def test_the_ensemble_averages_in_float32_what_was_found_in_bfloat16() -> None:
    answer = drawn(CropEnsemble(network(12), 7).bfloat16(), torch.rand(6, 1, 12, 12).bfloat16())
    # In bfloat16 the logarithms would be rounded to 1/128 and more.
    assert answer.dtype == torch.float32
    assert torch.allclose(answer.logsumexp(dim=1), torch.zeros(6), atol=1e-6)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_parts_that_are_none_are_refused(fraction: float) -> None:
    with pytest.raises(CasemateError, match="fraction is above 0 and below 1"):
        CropRescale(fraction)


def test_an_ensemble_of_none_is_refused() -> None:
    with pytest.raises(CasemateError, match="n_crops must be a whole number of at least 1"):
        CropEnsemble(network(12), 0)
