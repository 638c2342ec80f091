"""Scales taken into the layers before them: the same function, the same intervals, fewer layers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from casemate.bounds import Intervals, Tracing, box_of, propagate
from casemate.bounds.merging import merged
from casemate.bounds.operations import Scale
from casemate.threat import Linf


def shaken(network: nn.Module) -> nn.Module:
    """With scales of both signs and running statistics that are not those of the start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator))  # type: ignore[union-attr]
                module.running_var.copy_(0.1 + torch.rand(module.weight.shape, generator=generator))  # type: ignore[union-attr]
    return network.eval()


class Residual(nn.Module):
    """A convolution that two layers read, one of which scales it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.head((y + self.norm(y).relu()).flatten(1))


def sequential(*, bias: bool) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, groups=1, bias=bias), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2, bias=bias),
        nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8, bias=bias), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("build", "kept"), [(lambda: sequential(bias=True), 0), (lambda: sequential(bias=False), 0), (Residual, 1)]
)
def test_merging_keeps_the_function_and_every_interval(build: Callable[[], nn.Module], kept: int) -> None:
    torch.manual_seed(0)
    network, x, domain = shaken(build()), torch.rand(5, 1, 6, 6), Intervals()
    graph = Tracing(network, x).graph()
    fewer = merged(graph)
    scales = [node for node in fewer.nodes if isinstance(node.operation, Scale)]
    assert len(scales) == kept
    assert len(graph.nodes) - len(fewer.nodes) == len(list(network.buffers())) // 3 - kept
    for eps in (1e-12, 0.1):
        box = box_of(Linf(eps), x, domain)
        whole, short = ({node.name: value for node, value in zip(each.nodes, propagate(each, domain, box), strict=True)}
                        for each in (graph, fewer))  # fmt: skip
        for name, value in short.items():
            torch.testing.assert_close(value.centre, whole[name].centre, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(value.radius, whole[name].radius, rtol=1e-4, atol=1e-5)
        if eps < 0.1:
            torch.testing.assert_close(short[graph.nodes[-1].name].centre, network(x), rtol=1e-4, atol=1e-5)


def test_a_scale_of_each_pixel_stays() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(32, 3)
            self.register_buffer("window", torch.rand(2, 4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.conv(x) * self.window).flatten(1))

    graph = Tracing(Weighted(), torch.rand(2, 1, 6, 6)).graph()
    assert [type(node.operation) for node in merged(graph).nodes] == [type(node.operation) for node in graph.nodes]


def test_the_gradient_reaches_all_that_was_merged() -> None:
    torch.manual_seed(0)
    network, x, domain = shaken(sequential(bias=True)), torch.rand(5, 1, 6, 6), Intervals()
    tracing, box = Tracing(network, x), box_of(Linf(0.1), x, domain)
    wanted, found = (
        torch.autograd.grad(propagate(graph, domain, box)[-1].upper.sum(), list(network.parameters()))
        for graph in (tracing.graph(), merged(tracing.graph()))
    )
    for one, other in zip(found, wanted, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
