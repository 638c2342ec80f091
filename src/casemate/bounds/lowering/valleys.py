"""Activations that fall up to one place and grow from there."""

import torch

from casemate.bounds.lowering.layer import Layer, Rule, called, variable
from casemate.bounds.lowering.monotone import ROUNDINGS
from casemate.bounds.operations import Function, Operation, Valley

# All of them have their bottom in there. Near it the function is flat: its value is exact where the place is not.
LEFT, RIGHT, HALVINGS = -3.0, 0.0, 100


def falling_and_growing(name: str) -> Rule:
    """For GELU, SiLU and Mish, in any of their forms."""

    def rule(layer: Layer) -> Operation:
        variable(layer)
        function = called(layer)
        return Valley(name, function, _bottom(function), ROUNDINGS)

    return rule


def _bottom(function: Function) -> float:
    """Where the function is least, by thirds."""
    left, right = LEFT, RIGHT
    for _ in range(HALVINGS):
        third = (right - left) / 3
        first, second = function(torch.tensor([left + third, right - third], dtype=torch.float64)).tolist()
        left, right = (left, right - third) if first < second else (left + third, right)
    return (left + right) / 2
