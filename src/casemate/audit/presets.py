"""How hard an audit tries: the cascades that go by a name, cheap stages first.

`standard` is meant to be no weaker than standard AutoAttack (Croce & Hein 2020). Whether it is, is measured apart from
this file, on the same classifiers, and not claimed here.
"""

from collections.abc import Callable

from casemate.attacks import APGD, FGSM, PGD, Attack, MultiTarget, Restarts, Square
from casemate.audit.cascade import Stage
from casemate.errors import CasemateError
from casemate.threat import NORMS, Linf, Threat

_WITHIN = " within "

Preset = Callable[[Threat, int], tuple[Stage, ...]]


def quick(threat: Threat, n_classes: int) -> tuple[Stage, ...]:
    """One step, then 20 steps on two losses: a first look."""
    return (_one_step(threat), _pgd(20, "cross-entropy"), _pgd(20, "margin"))


def standard(threat: Threat, n_classes: int) -> tuple[Stage, ...]:
    """`quick`, APGD towards 3 likely wrong classes, and scores alone; then long searches where a margin has shrunk.

    Many short searches towards other classes find what restarts of long ones do not, in a fifth of the time; another
    loss finds what longer searches on the same one do not. What long searches break in the end is nearly always what
    short ones have brought within a fifth of its clean margin: the rest, most of the images, is spared them.
    """
    return (*quick(threat, n_classes), *_towards(n_classes), *_by_scores(threat))


def thorough(threat: Threat, n_classes: int) -> tuple[Stage, ...]:
    """50 restarts of 100 steps, half of them on each of two losses, the third loss, the targets twice; then what
    `standard` has for margins that have shrunk, for all images."""
    return (
        _one_step(threat),
        _pgd(40, "cross-entropy"),
        _pgd(100, "margin", 25),
        _pgd(100, "cross-entropy", 25),
        *_ratio(n_classes),
        *_multi_target(n_classes),
        *(Stage(_bare(stage), stage.attack) for stage in standard(threat, n_classes) if stage.within < 1),
    )


PRESETS: dict[str, Preset] = {"quick": quick, "standard": standard, "thorough": thorough}


def by_name(name: str) -> Preset:
    """The preset called `name`; raises `CasemateError` listing the known ones."""
    if name not in PRESETS:
        raise CasemateError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _one_step(threat: Threat) -> Stage:
    # Without the sign, which is the step of linf alone, it is called the fast gradient method.
    return Stage("FGSM" if isinstance(threat, Linf) else "FGM", FGSM())


def _pgd(n_steps: int, loss: str, n_restarts: int = 1) -> Stage:
    attack = PGD(n_steps=n_steps, loss=loss)
    if n_restarts == 1:
        return Stage(f"PGD-{n_steps} {loss}", attack)
    return Stage(f"PGD-{n_steps} x {n_restarts} {loss}", Restarts(attack, n_restarts))


def _ratio(n_classes: int) -> tuple[Stage, ...]:
    """The difference of logits ratio, which two classes do not have."""
    return (_pgd(100, "dlr", 5),) if n_classes >= 3 else ()


def _towards(n_classes: int) -> tuple[Stage, ...]:
    """APGD towards the likely wrong classes, on the margin and then on the difference of logits ratio.

    With two classes there is one, and no choice of targets; the targeted ratio needs four.
    """
    if n_classes < 3:
        return (Stage("APGD-100 margin", APGD(n_steps=100, loss="margin")),)
    second = "dlr" if n_classes >= 4 else "margin"
    return tuple(
        _near(
            f"MultiTarget {min(n_targets, n_classes - 1)} x APGD-{n_steps} {loss}",
            MultiTarget(APGD(n_steps=n_steps, loss=loss), min(n_targets, n_classes - 1)),
            within,
        )
        for n_targets, n_steps, loss, within in (
            (3, 50, "margin", 1.0),
            (9, 30, second, 0.4),
            (9, 100, second, 0.2),
        )
    )


def _by_scores(threat: Threat) -> tuple[Stage, ...]:
    """Random squares, which are known for the norms alone."""
    if not isinstance(threat, tuple(NORMS.values())):
        return ()
    return (_near("Square-100", Square(n_queries=100)), _near("Square-5000", Square(n_queries=5000), 0.12))


def _near(name: str, attack: Attack, within: float = 1.0) -> Stage:
    return Stage(name if within == 1 else f"{name}{_WITHIN}{within:.0%}", attack, within)


def _bare(stage: Stage) -> str:
    return stage.name.partition(_WITHIN)[0]


def _multi_target(n_classes: int) -> tuple[Stage, ...]:
    """Twice towards each likely wrong class; with two classes there is one, and every attack aims at it already."""
    if n_classes < 3:
        return ()
    n_targets, n_restarts = min(9, n_classes - 1), 2
    attack = MultiTarget(PGD(n_steps=100, loss="margin"), n_targets)
    name = f"MultiTarget {n_targets} x PGD-100 margin x {n_restarts}"
    return (Stage(name, Restarts(attack, n_restarts)),)
