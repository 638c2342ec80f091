"""The suite for attacks passes ours and catches every planted fault by name."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from casemate import FGSM, L1, L2, PGD, Linf, MultiTarget, Restarts, Transfer, Worst, rng
from casemate.attacks import Attack
from casemate.attacks.standing import Standing
from casemate.errors import CasemateError
from casemate.gradients import engine_for, evaluating
from casemate.losses import cross_entropy, margin
from casemate.testing import ConformanceError, check_attack
from casemate.testing.planted import Inert
from casemate.threat import Threat


@pytest.mark.parametrize(
    ("attack", "threats"),
    [
        (PGD(n_steps=5), None),
        (PGD(n_steps=3, loss="dlr", random_start=False), [Linf(0.1), L2(0.5)]),
        (FGSM(), [Linf(0.1), L2(0.5)]),
        (FGSM(random_start=True), [Linf(0.1), L2(0.5)]),
        (Restarts(PGD(n_steps=3, loss="margin"), 2), [L2(0.5)]),
        (Worst((PGD(n_steps=4), PGD(n_steps=3, loss="margin", random_start=False))), [L1(2.0)]),
        (MultiTarget(PGD(n_steps=3, loss="margin"), 3), [Linf(0.1)]),
    ],
)
def test_our_attacks_conform(attack: Attack, threats: list[Threat] | None) -> None:
    check_attack(attack, threats=threats)


def test_one_step_in_l1_conforms() -> None:
    # It is spread over 5% of the values, and is not the closed form.
    check_attack(FGSM(), threats=[L1(2.0)], breaks_linear=False)


def test_transfer_conforms() -> None:
    check_attack(Transfer(_AnyShape(), PGD(n_steps=3)), threats=[Linf(0.1)], breaks_linear=False)


class _AnyShape(nn.Module):
    """A source for both shapes of image that the suite has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.sin(5 * x).flatten(1)
        return torch.stack([pooled[:, k::4].sum(dim=1) for k in range(4)], dim=1)


@dataclass(frozen=True)
class Plain:
    """A correct attack written out in one piece, from which each planted fault departs in one thing."""

    n_steps: int = 4
    fault: str = ""

    def __post_init__(self) -> None:
        if self.n_steps < 1 and self.fault != "setting":
            raise CasemateError("n_steps must be at least 1" if self.fault != "no message" else "")

    def __call__(self, model, x, y, threat, *, keys):  # type: ignore[no-untyped-def]
        engine = model if self.fault == "engine" else engine_for(model)
        return _FAULTY.get(self.fault, _correct)(self, engine, x, y, threat, keys)


def _correct(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    standing = Standing(engine, x, y, keys=keys)
    at = standing.index
    x_adv = threat.sample(x[at], rng.fold(keys[at], "plain"))
    for step in range(settings.n_steps):
        gradient, logits = engine.gradient(x_adv, y[at], margin, keys=rng.fold(keys[at], step))
        still = standing.record(x_adv, margin(logits, y[at]))
        at = standing.index
        step_size = 2.5 * threat.eps / settings.n_steps
        x_adv = threat.project(x_adv[still] + step_size * threat.ascent(gradient[still], x_adv[still]), x[at])
    standing.record_exactly(x_adv)
    return standing.best


def _steps(settings, engine, x, y, threat, keys, *, start=None, step_size=None, loss=margin, n_steps=None):  # type: ignore[no-untyped-def]
    x_adv = x if start is None else start
    step_size = 2.5 * threat.eps / settings.n_steps if step_size is None else step_size
    for step in range(n_steps or settings.n_steps):
        gradient, _ = engine.gradient(x_adv, y, loss, keys=rng.fold(keys, step))
        x_adv = threat.project(x_adv + step_size * threat.ascent(gradient, x_adv), x)
    return x_adv


def _unless_wrong(x_adv, engine, x, y, keys):  # type: ignore[no-untyped-def]
    wrong = margin(engine.logits(x, keys=keys), y) > 0
    return torch.where(wrong.view(-1, 1, 1, 1), x, x_adv)


def _outside_ball(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    return _unless_wrong(
        _steps(settings, engine, x, y, replace(threat, eps=1.05 * threat.eps), keys), engine, x, y, keys
    )


def _outside_box(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    gradient, _ = engine.gradient(x, y, margin, keys=keys)
    return _unless_wrong(x + 0.9 * threat.eps * threat.ascent(gradient, x), engine, x, y, keys)


def _last_iterate(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    return _unless_wrong(_steps(settings, engine, x, y, threat, keys), engine, x, y, keys)


def _always_moves(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    return threat.sample(x, keys)


def _nothing(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    engine.logits(x, keys=keys)
    return x.clone()


def _global_random(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    noise = torch.randint(2**62, (len(x),))
    return _correct(settings, engine, x, y, threat, rng.fold(keys + noise))


def _keys_of_the_batch(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    return _correct(settings, engine, x, y, threat, rng.fold(keys[:1], "batch") + torch.arange(len(x)))


def _place_in_the_batch(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    return _correct(settings, engine, x, y, threat, rng.image_keys(0, torch.arange(len(x))))


def _writes_x(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    found = _correct(settings, engine, x, y, threat, keys)
    x[:1] += 0.0001
    return found


def _writes_y(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    found = _correct(settings, engine, x, y, threat, keys)
    y[:1] += 1
    return found


def _after(change: Callable[[nn.Module], object]):  # type: ignore[no-untyped-def]
    def attack(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
        found = _correct(settings, engine, x, y, threat, keys)
        change(engine.model)
        return found

    return attack


def _wrong_answers(answer: Callable[[torch.Tensor], object]):  # type: ignore[no-untyped-def]
    return lambda settings, engine, x, y, threat, keys: answer(_correct(settings, engine, x, y, threat, keys))


def _backward(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    """The usual loop: `loss.backward()` fills the weights' .grad as well."""
    found = _correct(settings, engine, x, y, threat, keys)
    if len(x):
        leaf = x.clone().requires_grad_(True)
        with evaluating(engine.model):
            cross_entropy(engine.model(leaf), y).sum().backward()
    return found


def _no_checks(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    """Believes whatever it is given."""
    try:
        return _correct(settings, engine, x, y, threat, keys)
    except (ValueError, RuntimeError, IndexError):
        return x


def _empty(settings, engine, x, y, threat, keys):  # type: ignore[no-untyped-def]
    return x[0] if not len(x) else _correct(settings, engine, x, y, threat, keys)


_FAULTY: dict[str, Callable[..., object]] = {
    "outside the ball": _outside_ball,
    "outside the box": _outside_box,
    "last iterate": _last_iterate,
    "always moves": _always_moves,
    "nothing": _nothing,
    "global random": _global_random,
    "keys of the batch": _keys_of_the_batch,
    "place in the batch": _place_in_the_batch,
    "writes x": _writes_x,
    "writes y": _writes_y,
    "train": _after(lambda model: model.train()),
    "eval": _after(lambda model: model.eval()),
    "frozen": _after(lambda model: model.requires_grad_(False)),
    "hook": _after(lambda model: model.register_forward_hook(lambda *_: None)),
    "weights": _after(lambda model: [parameter.data.add_(1e-6) for parameter in model.parameters()]),
    "grad": _backward,
    "graph": _wrong_answers(lambda x_adv: x_adv.requires_grad_(True)),
    "float64": _wrong_answers(lambda x_adv: x_adv.double()),
    "pair": _wrong_answers(lambda x_adv: (x_adv, x_adv)),
    "flat": _wrong_answers(lambda x_adv: x_adv.flatten(1)),
    "no checks": _no_checks,
    "empty": _empty,
}

EXPECTED = {
    "outside the ball": "left the threat model",
    "outside the box": "left the threat model",
    "last iterate": "met an|less wrong",
    "always moves": "misclassified as it was",
    "nothing": "missed 6 of 8 images that are closer than eps / 2",
    "global random": "changed torch's global random state",
    "keys of the batch": "in another order",
    "place in the batch": "in another order",
    "writes x": "wrote into x",
    "writes y": "wrote into y",
    "train": "changed the training mode",
    "eval": "changed the training mode",
    "frozen": "changed requires_grad",
    "hook": "changed the hooks",
    "weights": "changed the weights",
    "grad": "changed the .grad",
    "graph": "carry a graph",
    "float64": "torch.float64",
    "pair": "returned a tuple",
    "flat": r"returned shape \[8, 35\]",
    "no checks": "was given a classifier that returns NaN",
    "empty": "given an empty batch",
    "engine": "raised AttributeError|raised TypeError",
    "setting": "was given n_steps=0 and",
    "no message": "without a message",
}


def test_the_attack_that_the_faults_depart_from_conforms() -> None:
    check_attack(Plain(), threats=[Linf(0.1), L1(2.0)])


@pytest.mark.parametrize("fault", EXPECTED)
def test_every_planted_fault_is_caught_and_named(fault: str) -> None:
    with pytest.raises(ConformanceError, match=EXPECTED[fault]):
        check_attack(Plain(fault=fault))


def test_an_attack_that_never_asks_the_classifier_is_told_so() -> None:
    with pytest.raises(ConformanceError, match="never asked the classifier"):
        check_attack(Inert())
