"""SPSA against closed forms."""

import math

import pytest
from attack_toys import SHAPE, keys, zeros

from casemate import L1, L2, Linf
from casemate.attacks import SPSA
from casemate.attacks.spsa import rademacher
from casemate.errors import CasemateError
from casemate.losses import margin
from casemate.testing import check_attack, models
from casemate.threat import Threat


def test_breaks_what_the_closed_form_says_can_be_broken() -> None:
    x, threat = models.images(40, SHAPE), Linf(0.1)
    gain = models.Linear(SHAPE).gain(x, threat)
    ahead = -margin(models.Linear(SHAPE)(x), zeros(40)).double()
    bias = float((gain - ahead).median())
    model = models.Linear(SHAPE, bias=bias, scale=5 / float(gain.max()))
    ahead = ahead + bias
    x_adv = SPSA(n_steps=30, n_samples=100)(model, x, zeros(40), threat, keys=keys(40))
    broken = margin(model(x_adv), zeros(40)) > 0
    assert threat.contains(x_adv, x).all()
    within, beyond = ahead < 0.97 * gain, ahead > gain + 1e-4
    assert broken[within].all()
    assert not broken[beyond].any()
    assert within.sum() >= 8
    assert beyond.sum() >= 8


def test_directions_are_fair_signs() -> None:
    signs = rademacher(keys(100), (500,))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    # Hoeffding: 50,000 signs are further off but for 1 in 10^9.
    assert abs(float(signs.mean())) < math.sqrt(2 * math.log(2e9) / 50_000)


@pytest.mark.parametrize("threat", [L2(0.5), L1(2.0)], ids=str)
def test_norms_that_adam_does_not_follow_are_refused(threat: Threat) -> None:
    with pytest.raises(
        CasemateError, match=f"SPSA searches in linf, so {threat} is not a threat model for it: use NES"
    ):
        SPSA()(models.Linear(SHAPE), models.images(1, SHAPE), zeros(1), threat, keys=keys(1))


def test_keeps_the_promises_of_an_attack() -> None:
    check_attack(SPSA(n_steps=3, n_samples=6, sigma=0.03), threats=[Linf(0.1)], breaks_linear=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "SPSA needs at least 1 step, not 0"),
        ({"n_samples": 0}, "n_samples is even and at least 2, not 0"),
        ({"n_samples": 51}, "n_samples is even and at least 2, not 51"),
        ({"sigma": 0.0}, r"sigma of SPSA is a distance between pixel values, in \(0, 1\], not 0.0"),
        ({"step_size": -0.1}, "the step size of SPSA must be positive, not -0.1"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        SPSA(**settings)  # type: ignore[arg-type]
