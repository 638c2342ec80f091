"""The binarization test: a sound attack passes, weak ones do not, and the planted point is where it is said to be."""

from dataclasses import replace

import pytest
import torch
from symptom_toys import Plain, subject
from torch import Tensor, nn

from casemate import rng
from casemate.attacks import PGD
from casemate.audit.remedies.smoothed import Smoothed
from casemate.audit.symptoms import binarization as module
from casemate.audit.symptoms.binarization import binarization, binarized, last_linear
from casemate.gradients import Engine
from casemate.testing import models

SOUND = PGD(n_steps=50, loss="margin")


class Wide(nn.Module):
    """More features than there are points, as the test needs them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = models.seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.Tanh()))
        self.head = models.seeded(lambda: nn.Linear(256, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(4 * x))


def some(n: int):  # type: ignore[no-untyped-def]
    return subject(Wide()).first(n)


def test_the_planted_point_is_of_the_other_class_and_those_around_are_not() -> None:
    one = module._one(some(1), 0)
    made = binarized(one, "head", 99)
    assert made is not None
    points = module.around(one, 99)
    distances = one.threat.measure(points, one.x.expand_as(points)) / one.threat.eps
    assert len(points.unique(dim=0)) == 99
    assert 0.9 < distances.max() <= 0.95
    with torch.no_grad():
        assert (made.model(torch.cat([one.x, points])).argmax(dim=1) == 0).all()
        direction = rng.normal(rng.fold(one.keys, "rim"), one.x.shape[1:])
        rim = one.threat.project(one.x + one.threat.eps * direction.sign(), one.x)
        assert int(made.model(rim).argmax()) == 1
    assert one.engine.model.get_submodule("head").out_features == 4, "the classifier itself keeps its last layer"


@pytest.mark.slow
def test_a_sound_attack_passes_and_weak_ones_do_not() -> None:
    forty = torch.arange(40) % 24
    whole = subject(Wide())
    one = module.Subject(
        whole.engine, whole.x[forty], whole.y[forty], whole.threat, rng.image_keys(3, torch.arange(40))
    )
    found = binarization(one, SOUND, n_inner=99)
    assert (found.id, found.status) == ("BIN", "pass"), found
    tiny = binarization(one, PGD(n_steps=50, step_size=1e-4, loss="margin", random_start=False), n_inner=99)
    assert (tiny.status, tiny.statistic) == ("fail", 0)


@pytest.mark.parametrize(
    ("n_found", "n_easy", "n", "status"),
    [
        (20, 0, 20, "warn"),  # too few images for a pass
        (40, 0, 40, "pass"),
        (40, 3, 40, "warn"),  # too easy
        (39, 0, 40, "warn"),
        # P[X <= 33] = 0.003 and P[X <= 34] = 0.014 for 40 trials of 0.95.
        (34, 0, 40, "warn"),
        (33, 0, 40, "fail"),
    ],
)
def test_a_pass_asks_for_evidence_and_so_does_a_fail(n_found: int, n_easy: int, n: int, status: str) -> None:
    assert module._verdict(n_found, n_easy, n).status == status


def test_the_separating_layer_is_the_shrunk_discriminant() -> None:
    torch.manual_seed(0)
    for n, d in ((30, 8), (8, 30)):
        features = torch.randn(n, d, dtype=torch.float64)
        features[-1] += 6
        found = module._separating(features)
        assert found is not None
        weight, bias = found
        centred = features[:-1] - features[:-1].mean(dim=0)
        covariance = centred.T @ centred / (n - 1)
        a = module.SHRINKAGE
        shrunk = (1 - a) * covariance + a * covariance.trace() / d * torch.eye(d, dtype=torch.float64)
        torch.testing.assert_close(weight, torch.linalg.solve(shrunk, features[-1] - features[:-1].mean(dim=0)))
        scores = features @ weight + bias
        assert scores[-1] > 0 > scores[:-1].max()
        torch.testing.assert_close(scores[-1], -scores[:-1].max())
    # A last point in the middle of the others, and points that are all the same.
    assert module._separating(torch.tensor([[-1.0], [1.0], [0.0]], dtype=torch.float64)) is None
    assert module._separating(torch.ones(5, 3, dtype=torch.float64)) is None


def test_the_layer_that_is_called_last_is_replaced() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(8, 3), nn.Linear(64, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x.flatten(1)))

    assert last_linear(Backwards(), torch.zeros(1, 1, 8, 8)) == "last"
    assert last_linear(nn.Flatten(), torch.zeros(1, 1, 8, 8)) is None


def test_a_stand_in_gets_the_same_layer_and_one_with_its_own_is_skipped() -> None:
    network = Wide()
    whole = subject(network).first(2)
    shared = replace(whole, engine=Engine(network, stand_in=Smoothed(network, 0.01)))
    one = module._one(shared, 0)
    made = binarized(one, "head", 99)
    assert made is not None
    assert made.stand_in is not None
    assert made.stand_in(one.x).shape == made.model(one.x).shape == (1, 2)
    assert network(one.x).shape == (1, 4)
    found = binarization(shared, SOUND, n_inner=99)
    assert found.statistic == 1, found
    apart = replace(whole, engine=Engine(network, stand_in=Wide()))
    assert "of its own" in binarization(apart, SOUND, n_inner=99).meaning


def test_a_classifier_without_a_linear_layer_is_skipped() -> None:
    class Pooled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.mean(dim=(1, 2, 3)), 1 - x.mean(dim=(1, 2, 3))], dim=1)

    assert binarization(subject(Pooled()), SOUND).status == "skip"


def test_features_that_do_not_separate_are_left_out() -> None:
    class Narrow(nn.Module):
        """One feature, which is largest in the middle of the points around."""

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(-(x.flatten(1).mean(dim=1, keepdim=True) - 0.5).abs())

    one = subject(Narrow())
    grey = module.Subject(one.engine, torch.full_like(one.x[:2], 0.5), one.y[:2], one.threat, one.keys[:2])
    assert binarization(grey, SOUND, n_inner=200).status == "skip"


def test_plain_network_of_few_features_is_judged_on_what_separates() -> None:
    assert binarization(subject(Plain()).first(4), SOUND, n_inner=9).statistic == 1
