"""The winners are those of a sort; their gradient says nothing of the jump a step away, and the soft gate does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from casemate.defences import KWinners, with_k_winners
from casemate.errors import CasemateError
from casemate.models import preact_resnet, small_cnn
from casemate.testing import check_defence


def test_it_keeps_the_word_of_a_defence() -> None:
    check_defence(KWinners(0.2), image_shape=(3, 6, 7))


@given(st.floats(0.01, 1), st.integers(0, 2**31))
def test_the_winners_of_an_image_are_the_largest_of_all_its_channels_and_positions(ratio: float, seed: int) -> None:
    values = torch.randn(3, 4, 3, 5, generator=torch.Generator().manual_seed(seed))
    k = max(1, int(ratio * 60))
    for image, answer in zip(values, KWinners(ratio)(values), strict=True):
        winners = sorted(image.flatten().tolist(), reverse=True)[:k]
        assert sorted(answer[answer != 0].tolist(), reverse=True) == winners
        assert torch.equal(answer[answer != 0], image[answer != 0])


def test_largest_is_not_largest_in_size_and_equals_share_a_place() -> None:
    hidden = torch.tensor([[-9.0, 2.0, 1.0, 1.0], [-4.0, -3.0, -2.0, -1.0]])
    # One winner of four each at ratio 0.25; the winner of the second row is negative.
    assert KWinners(0.25)(hidden).tolist() == [[0, 2, 0, 0], [0, 0, 0, -1]]
    assert KWinners(0.5)(hidden).tolist() == [[0, 2, 1, 1], [0, 0, -2, -1]]


def test_a_layer_too_small_for_the_ratio_has_one_winner() -> None:
    assert KWinners(0.1)(torch.tensor([[3.0, 5.0]])).tolist() == [[0, 5]]


def test_the_gradient_is_that_of_the_winners_and_blind_to_the_jump() -> None:
    """The loser is worth 10 for every unit; the gradient there is 0 until it wins, a hundredth away."""
    value, layer = torch.tensor([0.0, 10.0]), KWinners(0.5)
    hidden = torch.tensor([[1.0, 0.995]], requires_grad=True)
    (gradient,) = torch.autograd.grad((layer(hidden) * value).sum(), hidden)
    assert gradient.tolist() == [[0, 0]]
    moved = hidden.detach() + torch.tensor([[0.0, 0.01]])
    assert (layer(moved) * value).sum().item() == pytest.approx(10.05)
    # The gate counts in standard deviations, here 0.0025: how far the loser is behind is 20 times a tenth of that.
    (gradient,) = torch.autograd.grad((layer.surrogate(hidden) * value).sum(), hidden)
    assert gradient[0, 0] == 0
    assert gradient[0, 1] > 0


def test_the_gate_is_open_for_winners_shut_for_losers_and_half_open_between() -> None:
    hidden = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    layer = KWinners(0.25)
    gate = layer.surrogate(hidden) / hidden
    ordered = hidden.flatten(1).sort(dim=1, descending=True).values
    least, spread = ordered[:, 11].view(5, 1, 1, 1), hidden.flatten(1).std(dim=1, correction=0).view(5, 1, 1, 1)
    torch.testing.assert_close(gate, torch.sigmoid((hidden - least) / (0.1 * spread)))
    clear = (hidden - least).abs() > spread
    assert clear.any()
    torch.testing.assert_close(layer.surrogate(hidden)[clear], layer(hidden)[clear], atol=2e-4, rtol=0)


def test_the_gate_of_equal_values_is_finite() -> None:
    hidden = torch.ones(2, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(KWinners(0.5).surrogate(hidden).sum(), hidden)
    assert gradient.isfinite().all()


def test_the_memory_format_is_kept() -> None:
    hidden = torch.randn(2, 4, 5, 5).to(memory_format=torch.channels_last)
    assert KWinners(0.2)(hidden).is_contiguous(memory_format=torch.channels_last)


def test_every_relu_of_a_network_is_replaced_and_nothing_else() -> None:
    network = preact_resnet(width=2).eval()
    with_winners = with_k_winners(network, 0.2)
    relus = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    winners = [module for module in with_winners.modules() if isinstance(module, KWinners)]
    assert len(winners) == len(relus) > 0
    assert not any(isinstance(module, nn.ReLU) for module in with_winners.modules())
    assert all(layer.ratio == 0.2 for layer in winners)
    assert not any(module.training for module in with_winners.modules())
    assert with_winners.state_dict().keys() == network.state_dict().keys()
    # The answer is that of the winners, computed by hand on a network without branches.
    network = small_cnn(width=2).eval()
    hidden = x = torch.rand(2, 1, 28, 28)
    for module in network:
        hidden = KWinners(0.2)(hidden) if isinstance(module, nn.ReLU) else module(hidden)
    assert torch.equal(with_k_winners(network, 0.2)(x), hidden)


def test_a_module_that_stands_in_two_places_is_replaced_in_both() -> None:
    relu = nn.ReLU()
    network = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu)
    kinds = [type(module) for module in with_k_winners(network)]
    assert kinds == [nn.Linear, KWinners, nn.Linear, KWinners]
    assert network[1] is relu
    assert isinstance(with_k_winners(relu), KWinners)


def test_what_cannot_be_is_refused() -> None:
    for ratio in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(CasemateError, match=r"\(0, 1\]"):
            KWinners(ratio)
    with pytest.raises(CasemateError, match="no activation to replace"):
        with_k_winners(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
