"""What holds for every architecture: what is built, described and refused."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from casemate import models
from casemate.classifier import check_logits
from casemate.errors import CasemateError

INPUTS: dict[str, tuple[int, int, int]] = {
    "madry-mnist": (1, 28, 28),
    "madry-cifar": (3, 32, 32),
    "tramer-b": (1, 28, 28),
    "preact-resnet": (3, 32, 32),
    "pooled-resnet": (3, 32, 32),
    "gowal-small": (1, 28, 28),
    "gowal-medium": (1, 28, 28),
    "gowal-large": (1, 28, 28),
    "diffai-ffnn": (1, 28, 28),
    "diffai-conv-small": (1, 28, 28),
    "diffai-conv-med": (1, 28, 28),
    "diffai-conv-big": (1, 28, 28),
    "diffai-conv-super": (1, 28, 28),
    "diffai-conv-skip": (1, 28, 28),
    "diffai-resnet-tiny": (1, 28, 28),
    "diffai-skipnet18": (3, 32, 32),
    "fast-at": (1, 28, 28),
    "small-cnn": (1, 28, 28),
    "thresholded": (1, 28, 28),
    "defended-cnn": (3, 32, 32),
}


def _n_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def narrow(name: str, width: int) -> dict[str, int]:
    """Arguments for a small network of the architecture; some of DiffAI's have one size alone."""
    if name == "madry-mnist":
        return {"scale": width // 2}
    return {"width": width} if name in ("diffai-ffnn", "diffai-skipnet18") or not name.startswith("diffai-") else {}


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_logits_and_finite_gradients_on_images(name: str) -> None:
    torch.manual_seed(0)
    network = models.build(name, n_classes=7, **narrow(name, 4))
    x = torch.rand(3, *INPUTS[name], requires_grad=True)
    logits = network(x)
    check_logits(logits, 3, what=name)
    assert logits.shape == (3, 7)
    nn.functional.cross_entropy(logits, torch.tensor([0, 3, 6])).backward()
    for tensor in (x, *network.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_an_image_does_not_depend_on_its_batch_in_eval_mode(name: str) -> None:
    torch.manual_seed(0)
    network = models.build(name, **narrow(name, 2)).eval()
    x = torch.rand(4, *INPUTS[name])
    with torch.inference_mode():
        torch.testing.assert_close(network(x)[2:3], network(x[2:3]))


# Which values win is no matter of the graph alone.
@pytest.mark.parametrize("name", [name for name in models.ARCHITECTURES if name != "defended-cnn"])
def test_networks_can_be_traced(name: str) -> None:
    traced = torch.fx.symbolic_trace(models.build(name).eval())
    x = torch.rand(2, *INPUTS[name])
    with torch.inference_mode():
        assert traced(x).shape == (2, 10)


def test_describe_is_the_published_size_of_each_network() -> None:
    rows = models.describe()
    assert [row.name for row in rows] == list(models.ARCHITECTURES) == list(INPUTS)
    assert {row.name: row.n_parameters for row in rows} == {
        "madry-mnist": 3_274_634,
        "madry-cifar": 464_154,
        "tramer-b": 710_218,
        "preact-resnet": 11_172_170,
        "pooled-resnet": 1_972_802,
        "gowal-small": 329_606,
        "gowal-medium": 893_418,
        "gowal-large": 13_257_290,
        "diffai-ffnn": 119_910,
        "diffai-conv-small": 89_606,
        "diffai-conv-med": 166_406,
        "diffai-conv-big": 1_974_762,
        "diffai-conv-super": 10_985_962,
        "diffai-conv-skip": 6_301_890,
        "diffai-resnet-tiny": 3_224_790,
        "diffai-skipnet18": 11_694_474,
        "fast-at": 166_406,
        "small-cnn": 33_546,
        "thresholded": 166_406,
        "defended-cnn": 33_834,
    }
    for row in rows:
        assert len(row.source) > 20
        assert json.loads(json.dumps(row.arguments)) == row.arguments
        assert row.arguments["n_classes"] == 10


def test_described_arguments_build_the_described_network() -> None:
    for row in models.describe():
        assert _n_parameters(models.build(row.name, **row.arguments)) == row.n_parameters


def test_describe_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    models.describe()
    assert torch.equal(before, torch.get_rng_state())


def test_the_same_seed_gives_the_same_weights() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return list(models.build("small-cnn", width=2).parameters())

    assert all(torch.equal(a, b) for a, b in zip(weights(0), weights(0), strict=True))
    assert not torch.equal(weights(0)[0], weights(1)[0])


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("resnet", {}, "no architecture 'resnet'; choose one of madry-mnist, madry-cifar, tramer-b"),
        ("fast-at", {"scale": 2}, "fast-at has no argument 'scale'; it takes width, n_classes, in_channels, size"),
        ("fast-at", {"width": 0}, "width must be a whole number of at least 1, got 0"),
        ("fast-at", {"width": True}, "width must be a whole number of at least 1, got True"),
        ("fast-at", {"width": "16"}, "width must be a whole number of at least 1, got '16'"),
        ("fast-at", {"size": 3}, "size must be a whole number of at least 4, got 3"),
        ("small-cnn", {"in_channels": 0}, "in_channels must be"),
        ("madry-mnist", {"scale": 1.5}, "scale must be a whole number of at least 1, got 1.5"),
        ("madry-mnist", {"init": "zeros"}, 'init must be "paper" or "pytorch", got \'zeros\''),
        ("madry-cifar", {"width": -1}, "width must be"),
        ("tramer-b", {"size": 32}, "tramer-b has no argument 'size'; it takes width, n_classes"),
        ("preact-resnet", {"n_classes": 1}, "n_classes must be a whole number of at least 2, got 1"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(name: str, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CasemateError, match=sentence):
        models.build(name, **arguments)
