"""Adam for a batch, of which images leave, against torch's for each of them alone."""

import torch
from attack_toys import SHAPE, keys

from casemate import rng
from casemate.attacks.adam import Adam
from casemate.testing import models

LEARNING_RATE = 0.05


def test_moves_those_that_are_left_as_they_would_move_alone() -> None:
    moved, alone = models.images(3, SHAPE), [image.clone().requires_grad_() for image in models.images(3, SHAPE)]
    ours, theirs = Adam(moved), [torch.optim.Adam([image], lr=LEARNING_RATE) for image in alone]
    scales = torch.tensor([1e-3, 1.0, 50.0]).view(-1, 1, 1, 1)
    for step in range(12):
        # The image in the middle leaves.
        at = torch.tensor([0, 2]) if step >= 5 else torch.arange(3)
        gradient = scales * 10.0 ** (step - 6) * rng.normal(rng.fold(keys(3), step), SHAPE)
        moved[at] -= LEARNING_RATE * ours.direction(gradient[at], at)
        for image in at.tolist():
            alone[image].grad = gradient[image].clone()
            theirs[image].step()
    assert torch.allclose(moved, torch.stack(alone).detach(), atol=1e-6)
