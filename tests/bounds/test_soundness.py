"""No point of a threat model ever leaves a bound, as the classifier itself computes it in float32."""

import copy

import pytest
import torch
from bound_toys import ACTIVATIONS, SHAPE, SMOOTH, network, networks, points, threats
from hypothesis import given, settings
from torch import Tensor, nn

from casemate.bounds import (
    CROWN,
    CROWNIBP,
    IBP,
    AlphaCROWN,
    ByZonotopes,
    Certifier,
    FullAlphaCROWN,
    Graph,
    Intervals,
    LinearBounds,
    Tracing,
    box_of,
    propagate,
    reach_of,
    rounding_in,
)
from casemate.bounds.specification import rivals
from casemate.threat import L1, L2, Images, Linf, Threat

CERTIFIERS = (
    IBP(),
    CROWNIBP(),
    CROWN(),
    CROWN(slope="same"),
    CROWN(slope="zero"),
    AlphaCROWN(n_steps=3),
    FullAlphaCROWN(n_steps=3),
    ByZonotopes(),
    ByZonotopes(relu="switch"),
    ByZonotopes(relu="smooth", hybrid=True),
    ByZonotopes(relu="diagonal", hybrid=True),
    ByZonotopes(relu="box", hybrid=True),
)
ROUNDED = Intervals(rounding_in(torch.float64))


def images(n: int = 3) -> Images:
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(n))
    # Values at the ends of the range, where the ball is cut.
    return torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x))


def exact(model: nn.Module) -> Graph:
    return Tracing(copy.deepcopy(model).double(), images(1).double()).graph()


@settings(max_examples=30)
@given(networks(tuple(ACTIVATIONS | SMOOTH)), threats)
def test_every_layer_stays_in_its_interval(model: nn.Sequential, threat: Threat) -> None:
    x = images()
    for layer in range(len(model)):
        part = model[: layer + 1]
        graph = exact(part)
        interval = propagate(graph, ROUNDED, box_of(reach_of(threat, x), x.double(), ROUNDED))[-1]
        for point in points(model, x, threat, n=5):
            assert interval.contains(part(point).double()).all(), part[-1]


@settings(max_examples=30)
@given(networks(tuple(ACTIVATIONS)), threats)
def test_every_layer_stays_in_its_linear_bounds(model: nn.Sequential, threat: Threat) -> None:
    x = images()
    for layer in range(len(model)):
        part = model[: layer + 1]
        bounds = LinearBounds(
            exact(part), reach_of(threat, x), x.double(), box_of(reach_of(threat, x), x.double(), ROUNDED), ROUNDED
        )
        for point in points(model, x, threat, n=5):
            assert bounds.boxes[-1].contains(part(point).double()).all(), part[-1]


@settings(max_examples=30)
@given(networks(tuple(ACTIVATIONS)), threats)
def test_no_point_has_a_smaller_margin_than_a_certifier_says(model: nn.Sequential, threat: Threat) -> None:
    x = images()
    y = model(x).argmax(dim=1)
    least = torch.stack([_margin(model(point), y) for point in points(model, x, threat)]).amin(dim=0)
    for certifier in CERTIFIERS:
        found = certifier.certify(model, x, y, threat)
        assert (found.margin <= least).all(), certifier
        assert torch.equal(found.holds, found.margin > 0)
        assert (found.radius == threat.eps * found.holds.double()).all()  # type: ignore[attr-defined]


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    exact_logits = logits.double()
    return (exact_logits.gather(1, y[:, None]) - exact_logits.gather(1, rivals(y, logits.shape[1]))).amin(dim=1)


@pytest.mark.parametrize("certifier", CERTIFIERS, ids=str)
def test_rounding_is_accounted_for(certifier: Certifier) -> None:
    """Weights that cancel: the classifier computes 0 in float32 where real numbers leave 1e-4, and the other way."""

    class Cancelling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)
            with torch.no_grad():
                self.linear.weight[:] = torch.tensor([[2.0**24, 1.0, -(2.0**24)], [0.0, 0.0, 0.0]])
                self.linear.bias[:] = 0

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.flatten(1))

    model = Cancelling().requires_grad_(False)
    x = torch.tensor([1.0, 0.4, 1.0]).view(1, 1, 1, 3)
    # In real numbers the first logit is 0.4 and in float32 it is 0 or 0.4, by the order of the sum.
    assert not certifier.certify(model, x, torch.tensor([0]), Linf(1e-9)).holds.any()
    assert certifier.certify(model, x.double(), torch.tensor([0]), Linf(1e-9)).margin.item() < 0.4


@pytest.mark.parametrize("certifier", CERTIFIERS, ids=str)
def test_the_misclassified_are_never_certified(certifier: Certifier) -> None:
    model = network(["conv"], "relu", "linear", 1.0, 0)
    x = images(20)
    wrong = (model(x).argmax(dim=1) + 1) % 3
    found = certifier.certify(model, x, wrong, Linf(1e-6))
    assert not found.holds.any()
    assert (found.margin < 0).all()


@pytest.mark.parametrize("certifier", CERTIFIERS, ids=str)
def test_bounds_close_in_on_the_answer(certifier: Certifier) -> None:
    model = network(["conv", "residual", "strided"], "relu", "hidden", 1.0, 1)
    x = images(10)
    y = model(x).argmax(dim=1)
    margins = [certifier.certify(model, x, y, Linf(eps)).margin for eps in (1e-7, 1e-3, 1e-2, 0.05, 0.2)]
    torch.testing.assert_close(margins[0], _margin(model(x), y), rtol=1e-3, atol=1e-5)
    for smaller, larger in zip(margins, margins[1:], strict=False):
        assert (larger <= smaller + 1e-9).all()


@pytest.mark.parametrize("certifier", CERTIFIERS, ids=str)
def test_the_batch_does_not_matter(certifier: Certifier) -> None:
    model = network(["conv", "strided"], "relu", "hidden", 1.0, 2)
    x = images(150)
    y = model(x).argmax(dim=1)
    together = certifier.certify(model, x, y, Linf(0.02))
    for part in (slice(0, 1), slice(40, 57)):
        alone = certifier.certify(model, x[part], y[part], Linf(0.02))
        torch.testing.assert_close(alone.margin, together.margin[part], rtol=1e-9, atol=1e-9)
        assert torch.equal(alone.holds, together.holds[part])
    assert certifier.certify(model, x[:0], y[:0], Linf(0.02)).holds.shape == (0,)


@pytest.mark.parametrize("threat", [Linf(0.25), L2(0.25), L1(0.25)], ids=str)
def test_a_bound_covers_all_that_the_threat_model_lets_through(threat: Linf | L2 | L1) -> None:
    """`contains` forgives a rounding for each value, so that what is certified must stand there too."""
    x = torch.full((1, 1, 4, 4), 0.5)
    n = 16
    change = {Linf: torch.full_like(x, 0.25), L2: torch.full_like(x, 0.0625), L1: torch.zeros_like(x)}[type(threat)]
    if isinstance(threat, L1):
        change[..., 0, 0] = 0.25
    # As far again as is forgiven: all values by one rounding, and of l1 the one that moves by all of them.
    slack = {Linf: 2.0**-24, L2: 2.0**-24, L1: n * 2.0**-24}[type(threat)]
    further = x + change + torch.where(change > 0, slack, 0)
    assert threat.contains(further, x).all()
    domain = Intervals(rounding_in(torch.float64))
    reach = reach_of(threat, x)
    box = box_of(reach, x.double(), domain)
    assert box.contains(further.double()).all()
    exact_graph = Tracing(nn.Sequential(nn.Flatten(), _summing(n)), x.double()).graph()
    bounds = LinearBounds(exact_graph, reach, x.double(), box, Intervals())
    # The bound of minus the sum is reached at that point, to within rounding in float64.
    least = bounds.margins(torch.tensor([0]))
    assert float(least.detach()) <= float(-2 * further.double().sum()) + 1e-12


def _summing(n: int) -> nn.Linear:
    layer = nn.Linear(n, 2, bias=False).double().requires_grad_(False)
    layer.weight.copy_(torch.tensor([[-1.0] * n, [1.0] * n]))
    return layer
