"""Transfer crafts on the source and asks the attacked classifier for its opinion only."""

import torch
from attack_toys import SHAPE, Counted, at_distances, keys, zeros
from torch import Tensor, nn

from casemate import PGD, Linf, Transfer, rng
from casemate.attacks import maximise
from casemate.gradients import Engine
from casemate.losses import cross_entropy
from casemate.testing import models


class NoGradient(nn.Module):
    """The same answers, without a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.detach())


def test_breaks_a_classifier_that_has_no_gradient() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.tensor([0.05, 0.09, 0.2]))
    x_adv = Transfer(linear, PGD(n_steps=10))(NoGradient(linear), x, zeros(3), Linf(0.1), keys=keys(3))
    assert linear(x_adv).argmax(dim=1).tolist() == [1, 1, 0]


def test_attacked_classifier_is_asked_twice_and_never_for_a_gradient() -> None:
    linear = models.Linear(SHAPE)
    attacked, source = Counted(linear), Counted(linear)
    x = at_distances(linear, torch.full((16,), 0.05))
    Transfer(source, PGD(n_steps=5))(Engine(attacked, batch_size=16), x, zeros(16), Linf(0.1), keys=keys(16))
    assert attacked.counts == {"gradients": 0, "verdicts": 32}
    # The search goes on where the source is fooled; one more image told the engine how much memory it takes.
    assert source.counts["gradients"] == 5 * 16 + 1


def test_hands_over_the_last_iterate_on_the_source() -> None:
    source = models.seeded(lambda: models.Rippled(SHAPE))
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.full((4,), 0.3))
    engine = Engine(source)
    start = Linf(0.1).sample(x, rng.fold(keys(4), "start"))
    crafted = maximise(
        engine, x, zeros(4), Linf(0.1), keys=keys(4), start=start, n_steps=6, step_size=0.02, loss=cross_entropy
    )
    x_adv = Transfer(source, PGD(n_steps=6, step_size=0.02))(linear, x, zeros(4), Linf(0.1), keys=keys(4))
    better = linear(crafted)[:, 1] > linear(x)[:, 1]
    assert torch.equal(x_adv, torch.where(better.view(-1, 1, 1, 1), crafted, x))


def test_images_that_are_wrong_already_are_left_alone() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.tensor([-0.1, -0.2]))
    source = Counted(linear)
    assert torch.equal(Transfer(source)(linear, x, zeros(2), Linf(0.1), keys=keys(2)), x)
    assert source.counts["gradients"] == 0


def test_reports_name_the_source_and_not_its_weights() -> None:
    assert "Linear" not in repr(Transfer(models.Linear(SHAPE), name="natural network"))
    assert "natural network" in repr(Transfer(models.Linear(SHAPE), name="natural network"))
