import torch
from torch import nn

from casemate.training.averaging import Average


def test_the_mean_is_that_of_its_closed_form() -> None:
    model = nn.Linear(3, 2)
    first = model.weight.detach().clone()
    average, decay = Average(model, 0.5), 0.5
    visited = []
    for number in range(12):
        with torch.no_grad():
            model.weight.normal_()
        visited.append(model.weight.detach().clone())
        average.update(model, number)
    kept = [min(decay, (1 + number) / (10 + number)) for number in range(12)]
    assert kept[:3] == [1 / 10, 2 / 11, 3 / 12]
    assert kept[8:] == [0.5] * 4
    # Each weight counts with what was taken in of it, times what every later step kept.
    expected = first * torch.tensor(kept).prod()
    for number, weight in enumerate(visited):
        expected += weight * (1 - kept[number]) * torch.tensor(kept[number + 1 :]).prod()
    torch.testing.assert_close(average.model.weight, expected)


def test_running_statistics_are_copied_and_the_model_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    average = Average(model, 0.9)
    model(torch.rand(4, 1, 5, 5))
    before = [parameter.clone() for parameter in model.parameters()]
    average.update(model, 0)
    assert all(torch.equal(a, b) for a, b in zip(average.model.buffers(), model.buffers(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
