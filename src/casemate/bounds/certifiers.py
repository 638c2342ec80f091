"""The certifiers by bounds, from the cheapest to the tightest; call certifier.certify(model, x, y, threat).

All work in float64, whatever the classifier does, and take off what rounding can do in both (see `rounding`).
"""

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from casemate import rng
from casemate.bounds.box import Reach, box_of, reaches_of
from casemate.bounds.certificate import Certificate
from casemate.bounds.graph import Graph, Tracing
from casemate.bounds.interpreter import propagate
from casemate.bounds.interval import Interval, Intervals
from casemate.bounds.linear import LinearBounds
from casemate.bounds.operations import LeakyReLU
from casemate.bounds.optimised import OptimisedBounds, optimised_margins
from casemate.bounds.relaxation import Slope, check_slope
from casemate.bounds.relus import transformer
from casemate.bounds.rounding import Rounding, rounding_in
from casemate.bounds.specification import Margins, least_margins
from casemate.bounds.zonotope import Zonotopes
from casemate.errors import CasemateError
from casemate.losses import Labels
from casemate.rng import Keys
from casemate.threat import L0, Images, Threat


class _ByBounds:
    """A certifier that bounds the margins of some images `at_once`, of classifiers with few enough activations."""

    name: ClassVar[str]
    at_once: ClassVar[int]
    max_activations: int

    def certify(
        self, model: nn.Module, x: Images, y: Labels, threat: Threat, *, keys: Keys | None = None
    ) -> Certificate:
        """See `Certifier`."""
        subject = Subject(model, x)
        subject.refuse_larger(self.max_activations, self.name)
        reaches = reaches_of(threat, x)
        parts: list[Tensor] = [torch.empty(0, dtype=torch.float64, device=x.device)]
        for images, labels in zip(x.double().split(self.at_once), y.split(self.at_once), strict=True):
            if len(images):
                parts.append(self._least(subject, images, labels, reaches))
        # Sums in float64 round differently in batches of different sizes; a float32 below the margin is as true, and
        # the same for all of them.
        margin = _float32_below(torch.cat(parts)).double()
        holds = margin > 0
        # Of the threat model that was asked for: what `contains` forgives is proved as well.
        return Certificate(holds, margin, threat.eps * holds.double())

    def _least(self, subject: "Subject", x: Images, y: Labels, reaches: Sequence[Reach]) -> Tensor:
        """The least margin over all of what is allowed; where one of several parts is not proved, nothing is known."""
        least = x.new_full((len(x),), torch.inf)
        for reach in reaches:
            at = (least > 0).nonzero().squeeze(1)
            if not len(at):
                break
            found = self.margins(subject, x[at], y[at], reach).amin(dim=1).detach()
            # A bound that is not a number proves nothing.
            least[at] = torch.minimum(least[at], torch.nan_to_num(found, nan=-torch.inf))
        return least if len(reaches) == 1 else torch.where(least > 0, least, -torch.inf)

    def margins(self, subject: "Subject", x: Images, y: Labels, reach: Reach) -> Margins:
        """Lower bounds of the margins against each rival, for float64 images."""
        raise NotImplementedError


@dataclass(frozen=True)
class IBP(_ByBounds):
    """Interval bound propagation (Gowal et al. 2018): about three forward passes in float64."""

    max_activations: int = sys.maxsize

    name: ClassVar[str] = "IBP"
    at_once: ClassVar[int] = 128

    def margins(self, subject: "Subject", x: Images, y: Labels, reach: Reach) -> Margins:
        box = box_of(reach, x, subject.domain)
        if isinstance(reach, L0):
            # The box around all choices of a few pixels is everything; the first layer knows how few.
            values = LinearBounds(subject.graph, reach, x, box, subject.domain, tighten=False).boxes
        else:
            values = propagate(subject.graph, subject.domain, box, forget=True)
        return least_margins(subject.graph, subject.rounding, values, y)


@dataclass(frozen=True)
class ByZonotopes(_ByBounds):
    """Zonotopes (Gehr et al. 2018), or the hybrid ones of Mirman et al. 2018 with `hybrid`.

    `relu` is one of `relus.TRANSFORMERS`: least-area is DeepZ's; box, diagonal, switch and smooth are DiffAI's. Raises
    `CasemateError` for a classifier with more than `max_activations` activations for one image, each of which is
    bounded by as many errors as the image has values and, without `hybrid`, as there are activations before it.
    """

    relu: str = "least-area"
    hybrid: bool = False
    max_activations: int = 20_000

    name: ClassVar[str] = "zonotope"
    at_once: ClassVar[int] = 2

    def __post_init__(self) -> None:
        transformer(self.relu)

    def margins(self, subject: "Subject", x: Images, y: Labels, reach: Reach) -> Margins:
        domain = Zonotopes(subject.rounding, transformer(self.relu), self.hybrid)
        values = propagate(subject.graph, domain, domain.of(box_of(reach, x, subject.domain)), forget=True)
        return least_margins(subject.graph, subject.rounding, values, y)


@dataclass(frozen=True)
class CROWN(_ByBounds):
    """Linear bounds of all layers (Zhang et al. 2018); `slope` is that of the line below an activation.

    The slopes are never all best: the tightest of CROWN and IBP is the answer. Raises `CasemateError` for a classifier
    with more than `max_activations` activations for one image, for which the bounds would take minutes an image.
    """

    slope: Slope = "adaptive"
    max_activations: int = 20_000

    name: ClassVar[str] = "CROWN"
    at_once: ClassVar[int] = 16
    tighten: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_slope(self.slope)

    def margins(self, subject: "Subject", x: Images, y: Labels, reach: Reach) -> Margins:
        with torch.no_grad():
            box = box_of(reach, x, subject.domain)
            bounds = self.bounds(subject, x, reach, box)
            forward = least_margins(subject.graph, subject.rounding, bounds.boxes, y)
        return torch.maximum(forward, self.backward(bounds, y))

    def bounds(self, subject: "Subject", x: Images, reach: Reach, box: Interval) -> LinearBounds:
        """Those of all layers but the last."""
        return LinearBounds(subject.graph, reach, x, box, subject.domain, self.slope, self.tighten)

    def backward(self, bounds: LinearBounds, y: Labels) -> Margins:
        """The margins by one pass back."""
        with torch.no_grad():
            return bounds.margins(y)


@dataclass(frozen=True)
class CROWNIBP(CROWN):
    """One pass back for each rival, between intervals (Zhang et al. 2020): the cost of about ten gradients."""

    max_activations: int = 1_000_000

    name: ClassVar[str] = "CROWN-IBP"
    at_once: ClassVar[int] = 64
    tighten: ClassVar[bool] = False


@dataclass(frozen=True)
class AlphaCROWN(CROWN):
    """CROWN with `n_steps` of optimisation of the slopes for each image and rival (Xu et al. 2021)."""

    n_steps: int = 20

    name: ClassVar[str] = "alpha-CROWN"

    def backward(self, bounds: LinearBounds, y: Labels) -> Margins:
        """The margins by a pass back for every step."""
        return optimised_margins(bounds, y, self.n_steps)


@dataclass(frozen=True)
class FullAlphaCROWN(AlphaCROWN):
    """`AlphaCROWN` in which the bounds of inner layers have slopes of their own too, `n_steps` for each (ibid.)."""

    max_activations: int = 5_000

    name: ClassVar[str] = "full-alpha-CROWN"

    def bounds(self, subject: "Subject", x: Images, reach: Reach, box: Interval) -> LinearBounds:
        """Those of all layers but the last, each the best that the steps find."""
        return OptimisedBounds(subject.graph, reach, x, box, subject.domain, self.slope, n_steps=self.n_steps)


class Subject:
    """The graph of a classifier in float64, and what rounding can do to it."""

    def __init__(self, model: nn.Module, x: Images) -> None:
        if any(getattr(module, "stochastic", False) for module in model.modules()):
            raise CasemateError("bounds prove nothing about a classifier that draws at random: certify it by voting")
        own = next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), x.dtype)
        exact = copy.deepcopy(model).eval().requires_grad_(False).double()
        probe = _probe(x)
        self.graph: Graph = Tracing(exact, probe).graph()
        self.rounding: Rounding = rounding_in(torch.float64, deployed=torch.finfo(own).eps / 2)
        self.domain = Intervals(self.rounding)
        self._refuse_another_function(exact, probe)

    def refuse_larger(self, most: int, name: str) -> None:
        """Raise `CasemateError` for more than `most` activations for one image."""
        n = sum(prod(node.shape) for node in self.graph.nodes if isinstance(node.operation, LeakyReLU))
        if n > most:
            raise CasemateError(f"{name} is for up to {most} activations, and there are {n}")

    def _refuse_another_function(self, exact: nn.Module, probe: Images) -> None:
        """Raise `CasemateError` where the graph says something else of some images than the classifier.

        Something that the layers do not show, such as a hook, can make it do so; nothing may be proved of it then.
        """
        with torch.no_grad():
            answer = exact(probe.clone())
            (*_, logits) = propagate(self.graph, Intervals(), Interval(probe, torch.zeros_like(probe)))
        if logits.centre.shape != answer.shape or not torch.allclose(logits.centre, answer, rtol=1e-6, atol=1e-9):
            raise CasemateError("the layers of the classifier do not answer as it does, so that nothing can be proved")


def _probe(x: Images) -> Images:
    """Three images of that shape, the same for all classifiers."""
    keys = rng.image_keys(0, torch.arange(3, device=x.device))
    return rng.uniform(keys, x.shape[1:]).double()


def _float32_below(values: Tensor) -> Tensor:
    rounded = values.float()
    return torch.where(rounded.double() > values, rounded.nextafter(torch.full_like(rounded, -torch.inf)), rounded)
