"""The suite for threat models passes ours and catches every planted fault by name."""

import pytest
import torch

from casemate import L1, L2, Linf
from casemate.testing import ConformanceError, check_threat
from casemate.threat import L0, Patch, Threat


@pytest.mark.parametrize(
    "threat",
    [Linf(8 / 255), Linf(0.3), Linf(1e-6), Linf(2), L2(0.5), L2(1e-6), L2(30), L1(12), L1(1e-5), L1(500)]
    + [L0(1), L0(5), L0(1000), Patch(1, 1), Patch(2, 3), Patch(100, 1)],
    ids=str,
)
def test_our_threat_models_conform(threat: Threat) -> None:
    check_threat(threat)


def _ball_then_box(x_adv, x, eps):  # type: ignore[no-untyped-def]
    delta = x_adv - x
    norm = delta.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
    return (x + delta * (eps * (1 - 1e-6) / norm).clamp(max=1)).clamp(0, 1)


class _Linf(Linf):
    """A threat model of its own, that `parse` does not know."""

    def __str__(self) -> str:
        return repr(self)


class _L2(L2):
    __str__ = _Linf.__str__


class _L1(L1):
    __str__ = _Linf.__str__


class _ClipAfterwards(_L2):
    """The usual shortcut: project on the ball, then clip. Inside, but not the nearest point."""

    def project(self, x_adv, x):  # type: ignore[no-untyped-def]
        return _ball_then_box(x_adv, x, self.eps)


class _NotNearestLinf(_Linf):
    def project(self, x_adv, x):  # type: ignore[no-untyped-def]
        return super().project(x + 0.9 * (x_adv - x), x)


class _TooFar(_Linf):
    def project(self, x_adv, x):  # type: ignore[no-untyped-def]
        return Linf(self.eps * (1 + 1e-6)).project(x_adv, x)


class _NoBox(_Linf):
    def project(self, x_adv, x):  # type: ignore[no-untyped-def]
        return x + (x_adv - x).clamp(-0.99 * self.eps, 0.99 * self.eps)


class _Loose(_Linf):
    def contains(self, x_adv, x):  # type: ignore[no-untyped-def]
        return Linf(self.eps * 1.1).contains(x_adv, x)


class _AllowsNan(_Linf):
    def contains(self, x_adv, x):  # type: ignore[no-untyped-def]
        return ~(self.measure(x_adv, x) > self.eps + 2**-24) & (((x_adv >= 0) & (x_adv <= 1)) | x_adv.isnan()).all()


class _Denies(_Linf):
    def contains(self, x_adv, x):  # type: ignore[no-untyped-def]
        return Linf(self.eps * 0.9).contains(x_adv, x)


class _SameForAll(_Linf):
    def sample(self, x, keys):  # type: ignore[no-untyped-def]
        return super().sample(x, keys[:1].expand(len(x)))


class _GlobalSample(_Linf):
    def sample(self, x, keys):  # type: ignore[no-untyped-def]
        return self.project(x + (2 * torch.rand_like(x) - 1) * self.eps, x)


class _NoSample(_Linf):
    def sample(self, x, keys):  # type: ignore[no-untyped-def]
        return x.clone()


class _LongStep(_Linf):
    def ascent(self, gradient, x_adv):  # type: ignore[no-untyped-def]
        return gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


class _Descends(_Linf):
    def ascent(self, gradient, x_adv):  # type: ignore[no-untyped-def]
        return -gradient.sign()


class _NotSteepest(_L2):
    def ascent(self, gradient, x_adv):  # type: ignore[no-untyped-def]
        one = torch.zeros_like(gradient)
        one[:, 0, 0, 0] = gradient[:, 0, 0, 0].sign()
        return one


class _NanAscent(_L2):
    def ascent(self, gradient, x_adv):  # type: ignore[no-untyped-def]
        return gradient / gradient.flatten(1).double().norm(dim=1).float().view(-1, 1, 1, 1)


class _WholeBatch(_L2):
    def measure(self, x_adv, x):  # type: ignore[no-untyped-def]
        return (x_adv.double() - x.double()).norm().expand(len(x)) / max(len(x), 1) ** 0.5


class _Lopsided(_L2):
    def measure(self, x_adv, x):  # type: ignore[no-untyped-def]
        return super().measure(x_adv, x) * (1 + 1e-9 * x.double().flatten(1).mean(dim=1))


class _Single(_L2):
    def measure(self, x_adv, x):  # type: ignore[no-untyped-def]
        return super().measure(x_adv, x).float()


class _InPlace(_Linf):
    def project(self, x_adv, x):  # type: ignore[no-untyped-def]
        x_adv.copy_(super().project(x_adv, x))
        return x_adv


class _NoEmpty(_L1):
    def sample(self, x, keys):  # type: ignore[no-untyped-def]
        return super().sample(x, keys) if x[0].numel() else x


class _Mute(Linf):
    def __str__(self) -> str:
        return "linf:0.25"


class _Unhashable(_Linf):
    __hash__ = None  # type: ignore[assignment]


FAULTS: list[tuple[Threat, str]] = [
    (_ClipAfterwards(0.5), "missed a feasible point"),
    (_NotNearestLinf(0.1), "missed a feasible point|moved a point inside"),
    (_TooFar(0.1), "beyond eps"),
    (_NoBox(0.1), "outside the box"),
    (_Loose(0.1), "contains allows 1.01 eps"),
    (_AllowsNan(0.1), "contains allows a pixel value of nan"),
    (_Denies(0.1), "contains\\(\\) denies"),
    (_SameForAll(0.1), "the same point"),
    (_GlobalSample(0.1), "with the same keys"),
    (_NoSample(0.1), "the same point"),
    (_LongStep(0.1), "ascent has size"),
    (_Descends(0.1), "does not grow"),
    (_NotSteepest(0.1), "less than a random step"),
    (_NanAscent(0.1), "zero gradient|ascent has size"),
    (_WholeBatch(0.1), "beyond eps|measure"),
    (_Lopsided(0.1), "not symmetric|beyond eps"),
    (_Single(0.1), "float64"),
    (_InPlace(0.1), "wrote into its arguments|missed|beyond"),
    (_NoEmpty(0.1), "sample of an empty batch raised IndexError"),
    (_Mute(0.1), "reads back as another"),
    (_Unhashable(0.1), "hash\\(\\) of"),
]


@pytest.mark.parametrize(("threat", "sentence"), FAULTS, ids=lambda value: type(value).__name__.strip("_"))
def test_every_planted_fault_is_caught_and_named(threat: Threat, sentence: str) -> None:
    with pytest.raises(ConformanceError, match=sentence):
        check_threat(threat)
