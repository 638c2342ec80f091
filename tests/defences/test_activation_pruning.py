"""Draws with replacement as the paper has them, to the last joint probability; the mean is what was there before."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from casemate import image_keys, rng
from casemate.defences import ActivationPruning, with_activation_pruning
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import margin
from casemate.models import small_cnn
from casemate.testing import check_defence

N = 20_000
# Hoeffding: a frequency over N images is this far off with a probability below 2 exp(-2 N 0.025^2) < 3e-11.
OFF = 0.025


def keys(n: int, seed: int = 0) -> rng.Keys:
    return image_keys(seed, torch.arange(n))


def pruned(activations: Tensor, share: float, *, place: int = 0, seed: int = 0) -> Tensor:
    """One draw for every row of `activations`."""
    with rng.drawing_from(keys(len(activations), seed)):
        return ActivationPruning(share, place)(activations)


class Squashed(nn.Module):
    """Pruned pixels brought back into [0, 1), as the suite for defences wants them."""

    stochastic = True

    def __init__(self) -> None:
        super().__init__()
        self.pruning = ActivationPruning(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.pruning(x))

    def surrogate(self, x: Tensor) -> Tensor:
        return torch.tanh(self.pruning.surrogate(x))


def test_it_keeps_the_word_of_a_defence() -> None:
    check_defence(Squashed(), image_shape=(3, 6, 7))


def test_which_activations_stay_has_the_joint_distribution_of_draws_with_replacement() -> None:
    """All 27 outcomes of 3 draws among sizes 1 : 2 : 5, by counting; draws of each by itself have another law."""
    activations = torch.tensor([1.0, -2.0, 5.0])
    p = activations.abs() / 8
    expected: dict[tuple[bool, ...], float] = {}
    for draws in itertools.product(range(3), repeat=3):
        stay = tuple(place in draws for place in range(3))
        expected[stay] = expected.get(stay, 0.0) + math.prod(float(p[draw]) for draw in draws)
    answer = pruned(activations.expand(N, 3), 1.0)
    seen = (answer != 0).tolist()
    for stay in itertools.product((False, True), repeat=3):
        frequency = sum(tuple(row) == stay for row in seen) / N
        assert frequency == pytest.approx(expected.get(stay, 0.0), abs=OFF), stay
    # Three draws never leave nothing, and what stays is divided by the probability that it does.
    assert all(any(row) for row in seen)
    scaled = activations / (1 - (1 - p) ** 3)
    assert torch.allclose(answer, torch.where(answer != 0, scaled, 0), rtol=1e-5)


def test_a_single_draw_leaves_the_sum_of_all_sizes() -> None:
    activations = torch.tensor([[3.0, -1.0, 0.0, 4.0]]).expand(200, 4)
    answer = pruned(activations, 0.1)
    assert ((answer != 0).sum(dim=1) == 1).all()
    torch.testing.assert_close(answer.sum(dim=1).abs(), torch.full((200,), 8.0))
    assert not (answer[:, 2] != 0).any()


def test_the_mean_over_draws_is_what_was_there_before() -> None:
    activations = torch.linspace(-1, 1, 24).view(1, 2, 3, 4)
    answer = pruned(activations.expand(N, 2, 3, 4), 1.0)
    q = 1 - (1 - activations.abs() / activations.abs().sum()) ** 24
    # The answer for a_i lies between 0 and a_i / q_i, at most sum |a| / 24 + |a_i|: Hoeffding again, by its width.
    width = activations.abs() / q.clamp(min=1e-9)
    assert ((answer.mean(dim=0) - activations).abs() <= OFF * width + 1e-6).all()


def test_all_or_nothing() -> None:
    assert pruned(torch.zeros(3, 2, 4), 1.0).tolist() == torch.zeros(3, 2, 4).tolist()
    one = torch.zeros(3, 5)
    one[:, 2] = -7
    torch.testing.assert_close(pruned(one, 1.0), one)
    assert pruned(torch.ones(0, 4), 1.0).shape == (0, 4)


def test_draws_belong_to_the_image_and_to_the_place_in_the_network() -> None:
    activations = torch.rand(6, 50)
    answer = pruned(activations, 0.3)
    with rng.drawing_from(keys(6)[3:5]):
        assert torch.equal(ActivationPruning(0.3)(activations[3:5]), answer[3:5])
    assert not torch.equal(pruned(activations, 0.3, place=1), answer)
    assert not torch.equal(pruned(activations, 0.3, seed=1), answer)


def test_what_autograd_makes_of_the_formula_is_not_the_gradient_of_the_mean() -> None:
    """Rare activations become sum |a| / r whatever their size: a network of equals has no slope for any of them."""
    activations = torch.ones(64, 1000, requires_grad=True)
    weights = torch.linspace(0, 1, 1000)
    answer = (pruned(activations, 0.05) * weights).sum()
    (own,) = torch.autograd.grad(answer, activations)
    assert own.isfinite().all()
    own = own.mean(dim=0)
    # What is left comes through the sum of all: the same for each, where the mean has the weights themselves.
    own, true = own - own.mean(), weights - weights.mean()
    assert own.norm() < 0.3 * true.norm()
    model = nn.Sequential(nn.Flatten(), ActivationPruning(0.05), Head(weights))
    x = torch.ones(8, 1, 1, 1000)
    seen, _ = Engine(model, precision="float32").gradient(x, torch.zeros(8, dtype=torch.int64), margin, keys=keys(8))
    torch.testing.assert_close(seen.view(8, 1000), weights.expand(8, 1000))


class Head(nn.Module):
    """Logits 0 and the weighted sum."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, hidden: Tensor) -> Tensor:
        ahead = hidden @ self.get_buffer("weights")
        return torch.stack([torch.zeros_like(ahead), ahead], dim=1)


def test_every_activation_of_a_network_is_followed_by_a_layer_with_draws_of_its_own() -> None:
    network = small_cnn(width=4).eval()
    with_pruning = with_activation_pruning(network, 0.5)
    layers = [module for module in with_pruning.modules() if isinstance(module, ActivationPruning)]
    assert [(layer.place, layer.share) for layer in layers] == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert not any(isinstance(module, ActivationPruning) for module in network.modules())
    x = torch.rand(4, 1, 28, 28)
    with rng.drawing_from(keys(4)):
        answer = with_pruning(x)
        hidden = x
        for place, module in enumerate(network):
            hidden = module(hidden)
            if isinstance(module, nn.ReLU):
                hidden = ActivationPruning(0.5, place // 2)(hidden)
    assert torch.equal(answer, hidden)


def test_with_many_draws_the_network_answers_as_before() -> None:
    network = small_cnn(width=4).eval()
    x = torch.rand(4, 1, 28, 28)
    off = [
        (Engine(with_activation_pruning(network, share)).logits(x, keys=keys(4)) - network(x)).norm().item()
        for share in (1.0, 300.0)
    ]
    assert 0 < off[1] < off[0] / 10


def test_what_cannot_be_is_refused() -> None:
    for share in (0.0, -1.0, float("nan")):
        with pytest.raises(CasemateError, match="must be positive"):
            ActivationPruning(share)
    with pytest.raises(CasemateError, match="no activation to replace"):
        with_activation_pruning(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
