"""The estimate against its closed form, the regression on separable features, and the detector on a small network."""

import pytest
import torch
from torch import nn

from casemate import models
from casemate.defences import LID, local_dimension
from casemate.errors import CasemateError


def ball(n: int, d: int) -> torch.Tensor:
    """Uniform points of the unit ball in d dimensions."""
    direction = torch.randn(n, d)
    return direction / direction.norm(dim=1, keepdim=True) * torch.rand(n, 1) ** (1 / d)


@pytest.mark.parametrize("d", [1, 2, 5, 10])
def test_at_the_centre_of_a_ball_the_estimate_is_its_dimension(d: int) -> None:
    k, n_trials = 20, 400
    estimates = torch.cat([local_dimension(torch.zeros(1, d), ball(100, d), k) for _ in range(n_trials)])
    # k - 1 independent log-ratios, exponential with rate d: the mean of k over their sum is d k / (k - 2), its
    # standard deviation that times 1 / sqrt(k - 3).
    mean = d * k / (k - 2)
    assert estimates.mean() == pytest.approx(mean, abs=4 * mean / (k - 3) ** 0.5 / n_trials**0.5)


def test_the_dimension_is_that_of_the_points_and_not_of_the_space_or_the_scale() -> None:
    flat = torch.cat([ball(200, 2), torch.zeros(200, 7)], dim=1)
    estimate = local_dimension(torch.zeros(1, 9), flat)
    assert torch.allclose(estimate, local_dimension(torch.zeros(1, 9), 100 * flat), rtol=1e-4)
    assert 1 < estimate < 4


def test_a_point_of_the_reference_is_not_its_own_neighbour() -> None:
    points = torch.randn(50, 3)
    others = points[1:]
    assert torch.allclose(local_dimension(points[:1], points, 10), local_dimension(points[:1], others, 10))


def detector(n: int = 60, layers: tuple[str, ...] = ("relu1", "fc")) -> LID:
    return LID(models.small_cnn(width=2).eval(), layers, torch.rand(n, 1, 28, 28), n_neighbours=10)


def test_the_score_tells_images_of_another_dimension_and_does_not_depend_on_the_batch() -> None:
    found = detector()
    clean, noisy = torch.rand(40, 1, 28, 28), torch.rand(40, 1, 28, 28)
    grey = torch.full((40, 1, 28, 28), 0.5) + 0.02 * torch.randn(40, 1, 28, 28)
    assert (found.score(clean) == 0).all()
    found.fit(clean, noisy, grey)
    with torch.no_grad():
        scores = found.score(torch.cat([clean, grey]))
        assert scores[40:].min() > scores[:40].max()
        assert torch.allclose(scores[3:4], found.score(clean[3:4]), atol=1e-3)
        assert torch.equal(found(clean), found.classifier(clean))


def test_an_attack_can_follow_the_score() -> None:
    found = detector().fit(torch.rand(20, 1, 28, 28), torch.rand(20, 1, 28, 28), torch.rand(20, 1, 28, 28) / 2)
    x = torch.rand(2, 1, 28, 28, requires_grad=True)
    (gradient,) = torch.autograd.grad(found.score(x).sum(), x)
    assert gradient.isfinite().all()
    assert (gradient != 0).flatten(1).any(dim=1).all()


def test_what_was_fitted_is_saved_with_the_weights() -> None:
    found = detector().fit(torch.rand(20, 1, 28, 28), torch.rand(20, 1, 28, 28), torch.rand(20, 1, 28, 28) / 2)
    other = detector()
    other.load_state_dict(found.state_dict())
    x = torch.rand(5, 1, 28, 28)
    assert torch.equal(found.score(x), other.score(x))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"layers": ("relu9",)}, "Sequential has no layer 'relu9'"),
        ({"layers": ()}, "at least one layer"),
        ({"n": 5}, "5 reference images have no 10 neighbours"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, sentence: str) -> None:
    with pytest.raises(CasemateError, match=sentence):
        detector(**arguments)


def test_a_layer_is_named_by_its_place() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    found = LID(network, ("1",), torch.rand(30, 1, 2, 2))
    assert found.dimensions(torch.rand(7, 1, 2, 2)).shape == (7, 1)
