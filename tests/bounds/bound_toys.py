"""Networks and points for the tests of bounds."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from casemate.threat import L1, L2, Linf, Threat

SHAPE = (2, 6, 6)


class Residual(nn.Module):
    """x + f(x), x - f(x), or f(x) beside x, and a pad, a shift and a scale by constants on the way."""

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.inner, self.kind = nn.Conv2d(channels, channels, 3, padding=1), kind

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.inner(F.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1]))
        if self.kind == "beside":
            return torch.cat([x, inner, 0.25 * x], dim=1)
        return x - 0.5 * inner if self.kind == "minus" else 1.5 * inner + x - 0.25


class Pooled(nn.Module):
    """The mean over all positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


MIDDLES: tuple[str, ...] = (
    "conv", "strided", "dilated", "grouped", "norm", "residual", "minus", "beside", "average", "pool", "identity",
)  # fmt: skip
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.1)}
SMOOTH: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "softplus": nn.Softplus, "gelu": nn.GELU, "silu": nn.SiLU
}  # fmt: skip


def _middle(kind: str, n: int) -> tuple[nn.Module, int]:
    if kind in ("residual", "minus", "beside"):
        return Residual(n, kind), 3 * n if kind == "beside" else n
    return {
        "conv": lambda: (nn.Conv2d(n, 4, 3, padding=1), 4),
        "strided": lambda: (nn.Conv2d(n, 3, (2, 3), stride=2, padding=1), 3),
        "dilated": lambda: (nn.Conv2d(n, 3, 2, dilation=2, padding=1), 3),
        "grouped": lambda: (nn.Conv2d(n, 2 * n, 3, padding=1, groups=n), 2 * n),
        "norm": lambda: (_normed(n), n),
        "average": lambda: (nn.AvgPool2d(2, stride=1, padding=1), n),
        "pool": lambda: (nn.MaxPool2d(2, stride=1), n),
        "identity": lambda: (nn.Identity(), n),
    }[kind]()  # type: ignore[no-untyped-call]


def _normed(n: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(n)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 2)
        norm.weight.normal_()
        norm.bias.normal_()
    return norm


def network(middles: list[str], activation: str, last: str, scale: float, seed: int) -> nn.Sequential:
    """A classifier of three classes on images of `SHAPE`; its weights grow with `scale`."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        n = SHAPE[0]
        for kind in middles:
            layer, n = _middle(kind, n)
            layers += [layer, (ACTIVATIONS | SMOOTH)[activation]()]
        body = nn.Sequential(*layers)
        if last == "pooled":
            layers += [Pooled(), nn.Linear(n, 3)]
        elif last == "hidden":
            layers += [nn.Flatten(), nn.Linear(body(torch.zeros(1, *SHAPE)).numel(), 5), nn.ReLU(), nn.Linear(5, 3)]
        else:
            layers += [nn.Flatten(), nn.Linear(body(torch.zeros(1, *SHAPE)).numel(), 3)]
        model = nn.Sequential(*layers).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter *= scale
        return model


def networks(activations: tuple[str, ...]) -> st.SearchStrategy[nn.Sequential]:
    return st.builds(
        network,
        st.lists(st.sampled_from(MIDDLES), min_size=1, max_size=3),
        st.sampled_from(activations),
        st.sampled_from(("linear", "hidden", "pooled")),
        st.sampled_from((0.05, 1.0, 30.0)),
        st.integers(0, 10_000),
    )


threats: st.SearchStrategy[Threat] = st.sampled_from(
    (Linf(0.01), Linf(0.1), Linf(0.4), L2(0.05), L2(0.7), L1(0.1), L1(3.0))
)


def points(model: nn.Module, x: Tensor, threat: Threat, n: int = 40) -> Iterator[Tensor]:
    """Points inside the threat model: random ones, corners, and where two logits of `model` are large and small."""
    keys = torch.arange(len(x))
    for number in range(n):
        yield threat.sample(x, keys * 1000 + number)
    for number in range(n):
        step = torch.randn(x.shape, generator=torch.Generator().manual_seed(number)).sign()
        yield threat.project(x + step, x)
    for sign in (1, -1):
        for logit in range(2):
            moved = x.clone()
            for _ in range(4):
                moved = moved.detach().requires_grad_(True)
                (gradient,) = torch.autograd.grad(model(moved)[:, logit].sum(), moved)
                moved = threat.project(moved.detach() + sign * 10 * threat.ascent(gradient, moved.detach()), x)
            yield moved.detach()
