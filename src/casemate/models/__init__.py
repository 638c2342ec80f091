"""The architectures by name. A new one is one file, and one line in `ARCHITECTURES`.

Each is a function whose arguments all have defaults and fit into JSON, and whose docstring's first line is its source.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from casemate.errors import CasemateError
from casemate.models.defended import defended_cnn as defended_cnn
from casemate.models.diffai import diffai_conv_big as diffai_conv_big
from casemate.models.diffai import diffai_conv_med as diffai_conv_med
from casemate.models.diffai import diffai_conv_skip as diffai_conv_skip
from casemate.models.diffai import diffai_conv_small as diffai_conv_small
from casemate.models.diffai import diffai_conv_super as diffai_conv_super
from casemate.models.diffai import diffai_ffnn as diffai_ffnn
from casemate.models.diffai import diffai_resnet_tiny as diffai_resnet_tiny
from casemate.models.diffai import diffai_skipnet18 as diffai_skipnet18
from casemate.models.gowal import gowal_large as gowal_large
from casemate.models.gowal import gowal_medium as gowal_medium
from casemate.models.gowal import gowal_small as gowal_small
from casemate.models.madry_cifar import madry_cifar as madry_cifar
from casemate.models.madry_mnist import madry_mnist as madry_mnist
from casemate.models.pooled_resnet import pooled_resnet as pooled_resnet
from casemate.models.preact_resnet import preact_resnet as preact_resnet
from casemate.models.small import fast_at as fast_at
from casemate.models.small import small_cnn as small_cnn
from casemate.models.thresholded import thresholded as thresholded
from casemate.models.tramer import tramer_b as tramer_b

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "madry-mnist": madry_mnist,
    "madry-cifar": madry_cifar,
    "tramer-b": tramer_b,
    "preact-resnet": preact_resnet,
    "pooled-resnet": pooled_resnet,
    "gowal-small": gowal_small,
    "gowal-medium": gowal_medium,
    "gowal-large": gowal_large,
    "diffai-ffnn": diffai_ffnn,
    "diffai-conv-small": diffai_conv_small,
    "diffai-conv-med": diffai_conv_med,
    "diffai-conv-big": diffai_conv_big,
    "diffai-conv-super": diffai_conv_super,
    "diffai-conv-skip": diffai_conv_skip,
    "diffai-resnet-tiny": diffai_resnet_tiny,
    "diffai-skipnet18": diffai_skipnet18,
    "fast-at": fast_at,
    "small-cnn": small_cnn,
    "thresholded": thresholded,
    "defended-cnn": defended_cnn,
}


@dataclass(frozen=True)
class Architecture:
    """A row of `describe`: an architecture with its default arguments and its parameter count at these."""

    name: str
    arguments: dict[str, Any]
    n_parameters: int
    source: str


def build(name: str, **arguments: Any) -> nn.Module:
    """A new network of the architecture `name`, freshly initialised from PyTorch's global generator.

    Raises `CasemateError` for an unknown name or argument, listing the known ones, and for values out of range.
    """
    if name not in ARCHITECTURES:
        raise CasemateError(f"there is no architecture {name!r}; choose one of {', '.join(ARCHITECTURES)}")
    known = _defaults(name)
    for argument in arguments:
        if argument not in known:
            raise CasemateError(f"{name} has no argument {argument!r}; it takes {', '.join(known)}")
    return ARCHITECTURES[name](**arguments)


def describe() -> list[Architecture]:
    """One row for each architecture, in the order listed; nothing is allocated."""
    rows = []
    for name, builder in ARCHITECTURES.items():
        with torch.device("meta"):
            n_parameters = sum(parameter.numel() for parameter in builder().parameters())
        source = (inspect.getdoc(builder) or "").partition("\n")[0]
        rows.append(Architecture(name, _defaults(name), n_parameters, source))
    return rows


def _defaults(name: str) -> dict[str, Any]:
    parameters = inspect.signature(ARCHITECTURES[name]).parameters
    return {argument: parameter.default for argument, parameter in parameters.items()}
