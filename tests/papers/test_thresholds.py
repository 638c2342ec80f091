"""The statistics of filters against layers made by hand."""

import math

import pytest
import torch
from torch import nn

from casemate import models
from casemate.errors import CasemateError
from casemate.papers.madry2018 import thresholds


def layer(weight: torch.Tensor, bias: list[float] | None) -> nn.Conv2d:
    made = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=bias is not None)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None and made.bias is not None:
            made.bias.copy_(torch.tensor(bias))
    return made


def single(*values: float) -> torch.Tensor:
    """Filters of one weight each, at different places: relu(a v - b) of one pixel v."""
    weight = torch.zeros(len(values), 1, 3, 3)
    for place, value in enumerate(values):
        weight[place, 0, place % 3, place // 3] = value
    return weight


def test_the_threshold_of_a_filter_of_one_weight_is_where_it_begins_to_answer() -> None:
    # 0.5 v - 0.15 is above 0 beyond 0.3; -2 v + 1.4 below 0.7; 4 v + 1 beyond -0.25, that is always.
    made = layer(single(0.5, -2.0, 4.0), [-0.15, 1.4, 1.0])
    found = thresholds.filters(made)
    assert found.largest.tolist() == [0.5, -2.0, 4.0]
    assert found.n_weights.tolist() == [1, 1, 1]
    assert found.one_weight.all()
    assert found.threshold.tolist() == pytest.approx([0.3, 0.7, -0.25])
    grey = torch.linspace(0.05, 0.95, 19).view(-1, 1, 1, 1).expand(-1, 1, 5, 5)
    answers = made(grey)[:, :, 2, 2] > 0
    begins = grey[:, 0, 0, 0] > 0.3
    assert answers[:, 0].tolist() == begins.tolist()
    assert answers[:, 1].tolist() == (grey[:, 0, 0, 0] < 0.7).tolist()
    assert answers[:, 2].all()


def test_weights_count_from_a_tenth_of_the_largest_on_whatever_their_sign() -> None:
    weight = torch.zeros(4, 1, 3, 3)
    weight[:, 0, 1, 1] = torch.tensor([1.0, -1.0, 1e-3, 0.0])
    weight[0, 0, 0, :2] = torch.tensor([0.099, -0.101])
    weight[1, 0, 2, 2] = 0.099
    weight[2] += 9e-5
    found = thresholds.filters(layer(weight, [0.0] * 4))
    # A filter is measured by its own largest weight, and one without any weight has none.
    assert found.n_weights.tolist() == [2, 1, 1, 0]
    assert found.one_weight.tolist() == [False, True, True, False]
    assert math.isnan(found.threshold[3])


def test_all_channels_of_a_filter_count_and_no_bias_is_one_of_0() -> None:
    weight = torch.zeros(1, 3, 3, 3)
    weight[0, 0, 0, 0] = weight[0, 2, 2, 2] = -0.7
    found = thresholds.filters(layer(weight, None))
    assert found.n_weights.tolist() == [2]
    assert found.largest.item() == pytest.approx(-0.7)
    assert found.threshold.item() == 0


def test_scaling_a_layer_changes_no_count_and_no_threshold() -> None:
    made = layer(torch.randn(6, 2, 3, 3), [0.1] * 6)
    before = thresholds.filters(made)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter *= 8
    after = thresholds.filters(made)
    assert torch.equal(before.n_weights, after.n_weights)
    assert torch.equal(before.threshold, after.threshold)
    assert torch.equal(8 * before.largest, after.largest)


def test_near_is_about_eps_and_1_minus_eps() -> None:
    values = torch.tensor([0.3, 0.34, 0.36, 0.7, 0.66, 0.5, -0.3, math.nan], dtype=torch.float64)
    expected = [True, True, False, True, True, False, False, False]
    assert thresholds.near(values, 0.3, 0.05).tolist() == expected


def test_the_share_of_small_weights() -> None:
    assert thresholds.share_small(torch.tensor([[-3.0, 0.29], [0.31, 0.0]])) == 0.5
    assert thresholds.share_small(torch.ones(7)) == 0


def test_answers_are_those_of_the_relu_over_all_positions() -> None:
    made = layer(torch.randn(5, 1, 3, 3), [0.0, -0.2, -20.0, 20.0, 0.1])
    model = nn.Sequential(made, nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.rand(11, 1, 6, 6)
    model(x)
    expected = made(x).clamp(min=0).double().transpose(0, 1).flatten(1)
    for at_a_time in (4, 250):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(thresholds, "AT_A_TIME", at_a_time)
            found = thresholds.answers(model, made, x)
        torch.testing.assert_close(found.fires, (expected > 0).double().mean(dim=1))
        torch.testing.assert_close(found.spread, expected.std(dim=1, correction=0), rtol=1e-5, atol=1e-6)
    assert found.fires[2] == 0
    assert found.fires[3] == 1
    # Nothing stays behind on the layer.
    assert not made._forward_hooks


@pytest.mark.parametrize("name", ["madry-mnist", "small-cnn", "madry-cifar", "preact-resnet", "thresholded"])
def test_the_layers_of_a_network_are_those_with_weights_in_order(name: str) -> None:
    with torch.device("meta"):
        model = models.build(name)
    layers = thresholds.weighted_layers(model)
    assert layers[0] is thresholds.first_layer(model)
    assert layers[0].in_channels in (1, 3)
    assert layers[1].weight.shape[1] == layers[0].out_channels
    assert layers[-1].weight.shape[0] == 10


def test_a_network_that_does_not_begin_with_a_convolution_has_no_filters() -> None:
    with pytest.raises(CasemateError, match="must be a Conv2d to have filters, not a Linear"):
        thresholds.first_layer(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(CasemateError, match="not a BatchNorm2d"):
        thresholds.first_layer(nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3)))
    with pytest.raises(CasemateError, match="not none"):
        thresholds.first_layer(nn.Flatten())
