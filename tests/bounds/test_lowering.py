"""Every layer that is known computes, on intervals without a radius, what PyTorch does; every other one is named."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casemate.bounds import CROWN, IBP, Interval, Intervals, Tracing, propagate
from casemate.bounds.operations import Affine
from casemate.bounds.rounding import rounding_in
from casemate.errors import CasemateError
from casemate.threat import Linf

SHAPE = (3, 8, 8)


class Of(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 1, 1))
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(1 - x * self.weight / 3, self.kernel, padding=1, stride=2)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
    "conv valid": lambda: nn.Conv2d(3, 4, 3, padding="valid"),
    "grouped": lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False),
    "norm": lambda: nn.BatchNorm2d(3, affine=False),
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": lambda: nn.Softplus(beta=2),
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "gelu by tanh": lambda: Of(lambda x: F.gelu(4 * x - 3, approximate="tanh")),
    "silu": lambda: Of(lambda x: F.silu(6 * x - 4)),
    "mish": lambda: nn.Sequential(nn.Mish(), nn.SiLU(inplace=True)),
    "hardtanh": nn.Hardtanh,
    "relu6": nn.ReLU6,
    "max pool": lambda: nn.MaxPool2d(3, stride=2),
    "max pool padded": lambda: nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
    "average pool": lambda: nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True),
    "adaptive pool": lambda: nn.AdaptiveAvgPool2d(3),
    "pad": lambda: nn.ConstantPad2d((1, 0, 2, 1), 0.5),
    "zero pad": lambda: nn.ZeroPad2d(1),
    "upsample": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "dropout": lambda: nn.Dropout(0.5),
    "root conv": lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1),
    "functional elu": lambda: Of(lambda x: F.elu(x - 0.5, 0.7)),
    "functional softplus": lambda: Of(lambda x: F.softplus(x - 0.5, 3.0)),
    "functional hardtanh": lambda: Of(lambda x: F.hardtanh(x, 0.3, 0.6, inplace=False)),
    "in place": lambda: nn.Sequential(nn.ELU(inplace=True), nn.ReLU6(inplace=True), nn.ReLU(inplace=True)),
    "constants": Weighted,
    "functions": lambda: Of(lambda x: torch.relu(-x + 1) * 2.0 - x.clamp(0.2, 0.7)),
    "mean": lambda: Of(lambda x: x.mean((2, 3), keepdim=True)),
    "permute": lambda: Of(lambda x: x.permute(0, 2, 1, 3).transpose(1, 3).contiguous()),
    "view": lambda: Of(lambda x: x.view(x.size(0), 6, -1).unsqueeze(1)),
    "choose": lambda: Of(lambda x: x[:, 1:, ::2, :3]),
    "pad in a mode": lambda: Of(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")),
    "resize": lambda: Of(lambda x: F.interpolate(x, size=(4, 16), mode="bilinear")),
    "resize by area": lambda: Of(lambda x: F.interpolate(x, size=(5, 3), mode="area")),
    "resize blurred": lambda: Of(lambda x: F.interpolate(x, size=(4, 4), mode="bilinear", antialias=True)),
    "transpose by name": lambda: Of(lambda x: x.transpose(dim0=1, dim1=3)),
    "join": lambda: Of(lambda x: torch.cat([x, torch.relu(x - 0.5), x], dim=1)),
    "join with constants": lambda: Of(lambda x: torch.cat([x.new_ones(x.size(0), 1, 8, 8), x], dim=1)),
    "stack": lambda: Of(lambda x: torch.stack([x, 2 * x, torch.full_like(x, 3.0)], dim=2).flatten(1)),
    "sum": lambda: Of(lambda x: x.sum(dim=(1, 3))),
    "product": lambda: Of(lambda x: x * torch.sigmoid(x)),
    "twice": lambda: Of(lambda x: x + x),
}


def named(name: str) -> nn.Module:
    layer = LAYERS[name]().eval()
    # A layer that is the whole classifier is traced into, one inside of it is not.
    return layer if name.startswith("root") else nn.Sequential(layer)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_without_a_radius_is_the_layer(name: str) -> None:
    torch.manual_seed(0)
    layer = named(name)
    x = torch.rand(5, *SHAPE)
    graph = Tracing(layer, x).graph()
    values = propagate(graph, Intervals(), Interval(x, torch.zeros_like(x)))
    with torch.no_grad():
        expected = layer(x)
    torch.testing.assert_close(values[-1].centre.detach(), expected, rtol=1e-5, atol=1e-5)
    assert float(values[-1].radius.detach().abs().max()) < 1e-5
    assert graph.nodes[-1].shape == expected.shape[1:]


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_with_a_radius_holds_all_points(name: str) -> None:
    torch.manual_seed(1)
    layer = named(name)
    x = torch.rand(5, *SHAPE)
    graph = Tracing(layer, x).graph()
    with torch.no_grad():
        last = propagate(graph, Intervals(), Interval(x, torch.full_like(x, 0.2)))[-1]
        for _ in range(30):
            point = x + 0.2 * torch.rand_like(x).sub(0.5).sign() * torch.rand(5, 1, 1, 1)
            assert ((layer(point) - last.centre).abs() <= last.radius + 1e-5).all()


class Flip(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Overwrites(nn.Module):
    """Adds to a ReLU what it was given, which is overwritten by then: twice the ReLU."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.relu, self.how = nn.ReLU(inplace=True), how

    def forward(self, x: Tensor) -> Tensor:
        x = x - 0.5
        if self.how == "module":
            return self.relu(x) + x
        if self.how == "function":
            return F.relu(x, inplace=True) + x
        if self.how == "method":
            return x.relu_() + x
        if self.how == "view":
            return self.relu(x.view(-1, 3, 8, 8)) + x
        y = x
        y += 1
        return y * x


def hooked(layer: nn.Module) -> nn.Module:
    """A layer that does something else than it looks like."""
    layer.register_forward_hook(lambda module, inputs, output: output + 1)
    return layer


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "unknown layer": (nn.Softsign, r"the layer 0 \(Softsign\) is none that bounds are known for"),
    "unknown function": (lambda: Of(torch.sin), r"the layer .*sin \(sin\) is none"),
    "steep": (lambda: nn.LeakyReLU(2.0), "has slope 2.0, and bounds are known for slopes from 0 to 1"),
    **{
        f"overwrites by a {how}": (partial(Overwrites, how), "writes into what another layer reads")
        for how in ("module", "function", "method", "view")
    },
    "overwrites by a sum": (partial(Overwrites, "sum"), "what was traced answers otherwise"),
    "decides": (Flip, "cannot be traced, so that nothing can be proved"),
    "mixes": (
        lambda: Of(lambda x: x - x.mean(0)),
        "goes over the images of a batch|does not keep one row for each image",
    ),
    "divides": (lambda: Of(lambda x: 1 / (x + 1)), "divides by what depends on the image"),
    "parts": (lambda: Of(lambda x: x.chunk(3, dim=1)[0] + 1), "makes a tuple of what depends on the image"),
    "a number": (lambda: Of(lambda x: x * x[:, 0, 0, 0].sum(0).item()), "does not keep one row|makes a float"),
    "moves by name": (lambda: Of(lambda x: x.transpose(dim0=0, dim1=1)), "moves the axis of the batch|one row"),
    "clamps by an image": (lambda: Of(lambda x: torch.clamp(x, min=x - 1)), "no other one, that depends on the image"),
    "resizes by a third": (lambda: nn.Upsample(size=(6, 6), mode="bilinear"), "no fraction of a power of two"),
    "hooked": (lambda: hooked(nn.ReLU()), "do not answer as it does|what was traced answers otherwise"),
    "bicubic": (lambda: nn.Upsample(scale_factor=2, mode="bicubic"), "is known for nearest, bilinear and area"),
    "reflects": (lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "pads in a way"),
    "batch norm": (lambda: nn.BatchNorm2d(3, track_running_stats=False), "normalises by the batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_by_name(name: str) -> None:
    layer, sentence = REFUSED[name]
    model = nn.Sequential(layer(), nn.Flatten(), nn.LazyLinear(3)).eval()
    x = torch.rand(2, *SHAPE)
    model(x)
    for certifier in (IBP(), CROWN()):
        with pytest.raises(CasemateError, match=sentence):
            certifier.certify(model, x, torch.tensor([0, 1]), Linf(0.1))


def test_a_domain_without_a_rule_names_the_layer_and_itself() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(72, 3)).eval()
    x, y = torch.rand(2, *SHAPE), torch.tensor([0, 1])
    with pytest.raises(CasemateError, match=r"the layer 1 \(sigmoid\) has no rule in the domain 'linear'"):
        CROWN().certify(model, x, y, Linf(0.1))
    assert IBP().certify(model, x, y, Linf(1e-6)).margin.isfinite().all()


def test_a_randomised_classifier_is_refused() -> None:
    class Drawn(nn.Linear):
        stochastic = True

    model = nn.Sequential(nn.Flatten(), Drawn(192, 3))
    with pytest.raises(CasemateError, match="draws at random: certify it by voting"):
        IBP().certify(model, torch.rand(2, *SHAPE), torch.tensor([0, 1]), Linf(0.1))


def test_the_graph_follows_the_weights() -> None:
    layer = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    x = torch.rand(2, *SHAPE)
    tracing = Tracing(layer, x)
    with torch.no_grad():
        layer[1].weight += 1
        last = propagate(tracing.graph(), Intervals(), Interval(x, torch.zeros_like(x)))[-1]
        torch.testing.assert_close(last.centre, layer(x))


@pytest.mark.parametrize(
    ("layer", "least"),
    [
        (nn.AvgPool2d(3, stride=1, padding=1), 9),
        (nn.AvgPool2d((2, 4)), 8),
        (nn.AdaptiveAvgPool2d(1), 64),
        (nn.AdaptiveAvgPool2d((5, 8)), 2),
        (Of(lambda x: x.mean(dim=(1, 3))), 24),
        (Of(lambda x: F.avg_pool2d(x, 5, 1)), 25),
        (Of(lambda x: F.interpolate(x, size=(2, 2), mode="bilinear", antialias=True)), 36),
        (nn.Conv2d(3, 2, 3), 27),
    ],
    ids=str,
)
def test_an_entry_is_a_sum_of_no_more_terms_than_rounding_is_counted_for(layer: nn.Module, least: int) -> None:
    (node,) = Tracing(nn.Sequential(layer), torch.rand(1, *SHAPE)).graph().nodes[1:]
    assert isinstance(node.operation, Affine)
    # By brute force: how many entries of the image have a part in any one entry of the result.
    units = torch.eye(3 * 8 * 8).view(-1, *SHAPE)
    with torch.no_grad():
        counted = int((node.operation.linear(units) != 0).flatten(1).sum(dim=0).max())
    assert least <= counted <= node.operation.terms


@pytest.mark.parametrize("function", [F.gelu, partial(F.gelu, approximate="tanh"), F.silu, F.mish])
def test_the_interval_of_a_valley_is_its_range(function: Callable[[Tensor], Tensor]) -> None:
    """Of every two of 61 ends from -3 to 3, against a fine grid between them: not wider than the grid can tell."""
    ends = torch.linspace(-3, 3, 61, dtype=torch.float64)
    low, high = torch.combinations(ends, 2).T
    grid = low[:, None] + torch.linspace(0, 1, 2001, dtype=torch.float64) * (high - low)[:, None]
    values = function(grid)
    model = Of(function)
    graph = Tracing(model, torch.zeros(1, 1, dtype=torch.float64)).graph()
    box = Interval(((low + high) / 2)[:, None], ((high - low) / 2)[:, None])
    for domain in (Intervals(), Intervals(rounding_in(torch.float64, deployed=2**-53))):
        found = propagate(graph, domain, box)[-1]
        lower, upper = found.lower.squeeze(1), found.upper.squeeze(1)
        if domain.rounding is not None:
            assert (lower <= values.amin(dim=1)).all()
            assert (upper >= values.amax(dim=1)).all()
        torch.testing.assert_close(lower, values.amin(dim=1), atol=1e-5, rtol=0)
        torch.testing.assert_close(upper, values.amax(dim=1), atol=1e-9, rtol=0)
