"""The networks of Gowal et al., by the sizes of their table and by what the initialisation is for."""

import pytest
import torch
from torch import nn

from casemate import models
from casemate.bounds import Intervals, Tracing, box_of, propagate
from casemate.errors import CasemateError
from casemate.threat import Linf


def test_parameters_are_those_of_the_layers_of_the_paper() -> None:
    def count(name: str, **arguments: object) -> int:
        return sum(parameter.numel() for parameter in models.build(name, **arguments).parameters())

    assert count("gowal-small") == 17 * 16 + 257 * 32 + 3201 * 100 + 101 * 10
    assert count("gowal-medium") == 10 * 32 + 513 * 32 + 289 * 64 + 1025 * 64 + 1025 * 512 + 513 * 512 + 513 * 10
    # DiffAI's readme counts 5,426,402 for the large one with 200 hidden units in the place of 512.
    assert count("gowal-large") == 5_426_402 + (512 - 200) * (128 * 14 * 14 + 1 + 10)
    assert count("gowal-large", in_channels=3, size=32) == 6_963_554 + (512 - 200) * (128 * 16 * 16 + 1 + 10)


def test_norm_is_behind_every_layer_but_the_last() -> None:
    kinds = [type(layer) for layer in models.build("gowal-medium", norm=True)]  # type: ignore[arg-type]
    layers = (nn.Conv2d, nn.Linear)
    after = [kinds[place + 1] for place, kind in enumerate(kinds[:-1]) if kind in layers]
    assert after == [nn.BatchNorm2d] * 4 + [nn.BatchNorm1d] * 2
    assert kinds[-1] is nn.Linear


def test_with_the_initialisation_for_intervals_radii_keep_their_size() -> None:
    """And with the other ones they grow manifold, which is what warm-up is for."""
    growths = {}
    for init in ("ibp", "orthogonal", "pytorch"):
        torch.manual_seed(0)
        graph = Tracing(models.build("gowal-large", width=8, init=init), torch.zeros(1, 1, 28, 28)).graph()
        domain, x = Intervals(), torch.rand(4, 1, 28, 28)
        values = propagate(graph, domain, box_of(Linf(0.05), x, domain))
        last = values[graph.nodes[-1].inputs[0]]
        growths[init] = float((last.radius.mean() / values[0].radius.mean()).detach())
    assert 0.05 < growths["ibp"] < 2
    assert growths["orthogonal"] > 10 * growths["ibp"]


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(CasemateError, match='init must be "orthogonal", "ibp" or "pytorch"'):
        models.build("gowal-small", init="zeros")
