"""NES against closed forms in every norm, and its schedules."""

import math

import pytest
import torch
from attack_toys import SHAPE, Asked, keys, zeros

from casemate import L1, L2, Linf
from casemate.attacks import NES
from casemate.attacks.nes import DISCONTINUOUS
from casemate.errors import CasemateError
from casemate.losses import margin
from casemate.testing import check_attack, models
from casemate.threat import Threat


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5), L1(2.0)], ids=str)
def test_breaks_what_the_closed_form_says_can_be_broken(threat: Threat) -> None:
    x = models.images(40, SHAPE)
    gain = models.Linear(SHAPE).gain(x, threat)
    # As many images within reach of the boundary as beyond it, and a box that is met.
    ahead = -margin(models.Linear(SHAPE)(x), zeros(40)).double()
    bias = float((gain - ahead).median())
    model = models.Linear(SHAPE, bias=bias, scale=5 / float(gain.max()))
    ahead = ahead + bias
    attack = NES(n_steps=25, n_samples=400)
    x_adv = attack(model, x, zeros(40), threat, keys=keys(40))
    broken = margin(model(x_adv), zeros(40)) > 0
    assert threat.contains(x_adv, x).all()
    within, beyond = ahead < 0.93 * gain, ahead > gain + 1e-4
    assert broken[within].all()
    assert not broken[beyond].any()
    assert within.sum() >= 8
    assert beyond.sum() >= 8


def test_the_published_schedule_for_discontinuous_classifiers() -> None:
    samples = [DISCONTINUOUS.n_samples_at(step) for step in range(DISCONTINUOUS.n_steps)]
    assert samples == [100] * 20 + [1000] * 20 + [20_000] * 60
    # And the point reached in each step, and the image itself.
    assert sum(samples) + len(samples) + 1 == 1_222_101
    assert (DISCONTINUOUS.sigma, DISCONTINUOUS.step_size, DISCONTINUOUS.loss) == (8 / 255, 0.01, "margin")


def test_default_step_size() -> None:
    assert NES(n_steps=100).step_size_for(Linf(0.3)) == pytest.approx(0.03)
    assert NES(n_steps=100, step_size=0.01).step_size_for(Linf(0.3)) == 0.01


def test_a_schedule_is_what_is_asked() -> None:
    engine = Asked(models.Linear(SHAPE, bias=100.0))
    attack = NES(n_steps=5, n_samples=((0, 4), (2, 10), (4, 130)))
    attack(engine, models.images(3, SHAPE), zeros(3), Linf(0.1), keys=keys(3))
    assert engine.n_points == 3 * (2 * 4 + 2 * 10 + 130 + 5 + 1)


def test_a_number_is_a_schedule_of_one_entry() -> None:
    model = models.seeded(lambda: models.Rippled(SHAPE, ahead=20))
    x = models.images(4, SHAPE)
    number, schedule = (NES(n_steps=3, n_samples=n)(model, x, zeros(4), L2(0.5), keys=keys(4)) for n in (8, ((0, 8),)))
    assert torch.equal(number, schedule)


def test_keeps_the_promises_of_an_attack() -> None:
    check_attack(NES(n_steps=3, n_samples=6, sigma=0.03), breaks_linear=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "NES needs at least 1 step, not 0"),
        ({"n_samples": 0}, "n_samples is even and at least 2, not 0"),
        ({"n_samples": 51}, "n_samples is even and at least 2, not 51"),
        ({"n_samples": ((0, 10), (5, 7))}, "even and at least 2, not 7"),
        ({"n_samples": ()}, "a schedule is"),
        ({"n_samples": ((1, 10),)}, "from step 0 on"),
        ({"n_samples": ((0, 10), (5, 20), (5, 30))}, "a schedule is"),
        ({"n_samples": ((0, 10), (9, 20), (5, 30))}, "a schedule is"),
        ({"sigma": 0.0}, r"in \(0, 1\], not 0.0"),
        ({"sigma": math.nan}, "not nan"),
        ({"sigma": 8.0}, "not 8.0"),
        ({"step_size": 0.0}, "the step size of NES must be positive, not 0.0"),
        ({"step_size": math.nan}, "must be positive"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        NES(**settings)  # type: ignore[arg-type]
