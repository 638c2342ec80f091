"""The indicators of attack failure: their formulas by hand, and what they say of planted faults."""

import pytest
import torch
from symptom_toys import After, Before, Plain, subject
from torch import Tensor

from casemate.audit.symptoms.indicators import incomplete, silent_success, unstable


def test_a_loss_that_has_settled_is_complete() -> None:
    falling = torch.cat([torch.linspace(5, 0, 20), torch.zeros(12)])
    assert incomplete(torch.stack([falling, -falling, 0 * falling], dim=1)).status == "pass"


def test_a_loss_that_still_falls_is_not() -> None:
    # 30 steps of a straight fall: the last 10 points hold 9/30 of it. Beside one that has settled, half the images.
    straight, settled = torch.linspace(7, -3, 31), torch.cat([torch.ones(10), torch.zeros(21)])
    found = incomplete(torch.stack([straight, settled], dim=1))
    assert (found.id, found.status, found.statistic) == ("I4", "warn", 0.5)


def test_the_last_fall_counts_against_the_whole_range() -> None:
    at_edge = [torch.cat([torch.tensor([1.0]), torch.full((20,), last), torch.zeros(3)]) for last in (0.049, 0.051)]
    assert incomplete(at_edge[0][:, None]).status == "pass"
    assert incomplete(at_edge[1][:, None]).status == "warn"


def test_a_wrong_point_on_the_way_that_is_not_returned() -> None:
    path = torch.tensor([[1.0, 1.0, 1.0], [-0.1, 0.5, -0.2], [0.3, 0.2, 0.1]])
    found = silent_success(path, torch.tensor([False, False, True]))
    assert (found.id, found.status) == ("I3", "fail")
    assert found.statistic == pytest.approx(1 / 3)
    # The last point is what was returned; being wrong there is no secret.
    assert silent_success(-path.flip(0)[:2].abs().flip(0), torch.tensor([True, True, True])).status == "pass"


def test_stability_of_a_plain_classifier_and_of_one_with_cliffs() -> None:
    assert unstable(subject(Plain())).status == "pass"

    def cliffs(logits: Tensor) -> Tensor:
        return logits + 10 * torch.sign(torch.sin(1e4 * logits.sum(dim=1, keepdim=True))) * torch.tensor([1.0, 0, 0, 0])

    found = unstable(subject(After(cliffs, Plain())))
    assert (found.id, found.status) == ("I2", "warn")
    assert found.statistic > 0.3


def test_stability_by_hand() -> None:
    class First(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 0, 0, 0], 0 * x[:, 0, 0, 0]], dim=1)

    one = subject(Before(lambda x: x, First()))
    value = one.x[:, 0, 0, 0]
    # |u| is 4/255 / 2 on average; the clipping to the box and to 1 touches only pixels next to 0 and 1.
    expected = float((2 / 255 / value).clamp(max=1).mean())
    assert unstable(one).statistic == pytest.approx(expected, rel=0.25)
