"""The binarization test: a sound attack passes, weak ones do not, and the planted point is where it is said to be."""

import pytest
import torch
from symptom_toys import Plain, subject
from torch import Tensor, nn

from casemate import rng
from casemate.attacks import PGD
from casemate.audit.symptoms import binarization as module
from casemate.audit.symptoms.binarization import binarization, binarized, last_linear
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
    whole = subject(Wide())
    return module.Subject(whole.engine, whole.x[:n], whole.y[:n], whole.threat, whole.keys[:n])


def test_the_planted_point_is_of_the_other_class_and_those_around_are_not() -> None:
    one = module._one(some(1), 0)
    made = binarized(one, "head", 99)
    assert made is not None
    points = module.around(one, 99)
    distances = one.threat.measure(points, one.x.expand_as(points)) / one.threat.eps
    assert len(points.unique(dim=0)) == 99
    assert 0.9 < distances.max() <= 0.95
    with torch.no_grad():
        assert (made(torch.cat([one.x, points])).argmax(dim=1) == 0).all()
        direction = rng.normal(rng.fold(one.keys, "rim"), one.x.shape[1:])
        rim = one.threat.project(one.x + one.threat.eps * direction.sign(), one.x)
        assert int(made(rim).argmax()) == 1
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


def test_too_few_images_are_no_pass() -> None:
    assert module._verdict(20, 0, 20).status == "fail"
    assert module._verdict(40, 0, 40).status == "pass"
    assert module._verdict(40, 3, 40).status == "warn"
    assert module._verdict(36, 0, 40).status == "fail"


def test_the_layer_that_is_called_last_is_replaced() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(8, 3), nn.Linear(64, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x.flatten(1)))

    assert last_linear(Backwards(), torch.zeros(1, 1, 8, 8)) == "last"
    assert last_linear(nn.Flatten(), torch.zeros(1, 1, 8, 8)) is None


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
    whole = subject(Plain())
    few = module.Subject(whole.engine, whole.x[:4], whole.y[:4], whole.threat, whole.keys[:4])
    assert binarization(few, SOUND, n_inner=9).statistic == 1
