from unittest.mock import Mock

import pytest

from casemate.attacks import APGD, PGD, MultiTarget, Restarts, Square
from casemate.audit import PRESETS
from casemate.audit.presets import by_name
from casemate.errors import CasemateError
from casemate.threat import L2, Linf, Threat


def names(preset: str, n_classes: int = 10) -> list[str]:
    return [stage.name for stage in PRESETS[preset](Linf(0.3), n_classes)]


def steps(attack: object) -> int:
    """The gradients an attack spends at most on one image."""
    if isinstance(attack, Restarts):
        return attack.n_restarts * steps(attack.attack)
    if isinstance(attack, MultiTarget):
        return attack.n_targets * steps(attack.attack)
    return attack.n_steps if isinstance(attack, PGD | APGD) else 1


def test_the_standard_cascade():
    assert names("standard") == [
        "FGSM",
        "PGD-20 cross-entropy",
        "PGD-20 margin",
        "MultiTarget 3 x APGD-50 margin",
        "MultiTarget 9 x APGD-30 dlr within 40%",
        "MultiTarget 9 x APGD-100 dlr within 20%",
        "Square-100",
        "Square-5000 within 12%",
    ]
    assert names("quick") == names("standard")[:3]


def test_long_searches_are_for_images_whose_margin_has_shrunk():
    within = {stage.name: stage.within for stage in PRESETS["standard"](Linf(0.3), 10) if stage.within < 1}
    assert list(within.values()) == [0.4, 0.2, 0.12]
    assert all(name.endswith(f"within {share:.0%}") for name, share in within.items())
    # Thorough runs the same searches on all images.
    thorough = {stage.name: stage for stage in PRESETS["thorough"](Linf(0.3), 10)}
    for stage in PRESETS["standard"](Linf(0.3), 10):
        if stage.within < 1:
            found = thorough[stage.name.partition(" within")[0]]
            assert (found.attack, found.within) == (stage.attack, 1)


def test_thorough_restarts_fifty_times():
    stages = {stage.name: stage.attack for stage in PRESETS["thorough"](Linf(0.3), 10)}
    restarts = [attack.n_restarts for name, attack in stages.items() if "x 25" in name]
    assert sum(restarts) == 50
    assert steps(stages["MultiTarget 9 x PGD-100 margin x 2"]) == 1800


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("n_classes", [2, 3, 10, 1000])
def test_names_are_unique_and_what_classes_cannot_do_is_left_out(preset, n_classes):
    found = names(preset, n_classes)
    assert len(set(found)) == len(found)
    assert any("dlr" in name or "Multi" in name for name in found) == (n_classes > 2 and preset != "quick")
    assert preset == "quick" or n_classes != 3 or any("MultiTarget 2 x" in name for name in found)


def test_the_quick_stages_are_in_order_of_cost():
    stages = PRESETS["standard"](Linf(0.3), 10)
    cost = [steps(stage.attack) for stage in stages if not isinstance(stage.attack, Square)]
    assert cost == sorted(cost)


def test_one_step_without_a_sign_has_its_own_name():
    assert PRESETS["quick"](L2(0.5), 10)[0].name == "FGM"


def test_squares_are_left_out_where_they_are_not_known():
    assert not any("Square" in stage.name for stage in PRESETS["standard"](Mock(spec=Threat), 10))


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(CasemateError, match="quick, standard, thorough"):
        by_name("hard")
