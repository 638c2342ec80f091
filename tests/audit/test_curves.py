import pytest
import torch
from audit_toys import THREAT, convolutional, dataset, images, linear
from torch import nn

from casemate.audit.curves import (
    MAX_IMAGES,
    N_POINTS,
    accuracy_against_eps,
    accuracy_against_steps,
    loss_paths,
    loss_surfaces,
)
from casemate.audit.statistics import clopper_pearson
from casemate.gradients import Engine
from casemate.threat import L2, Linf


def test_accuracy_falls_from_the_clean_one_and_never_rises():
    model = convolutional()
    data = dataset(model)
    curve = accuracy_against_eps(Engine(model), data.images, data.labels, THREAT, 0)
    assert curve["n"] == len(data)
    assert curve["eps"][0] == 0
    assert curve["eps"] == sorted(curve["eps"])
    assert len(curve["eps"]) == 11
    assert THREAT.eps in curve["eps"]
    assert curve["eps"][-1] == 1.5 * THREAT.eps
    accuracy = curve["attacked_accuracy"]
    assert accuracy[0] == 1 - 5 / 40
    assert accuracy == sorted(accuracy, reverse=True)
    assert accuracy[-1] < accuracy[0]
    assert curve["interval"][0] == list(clopper_pearson(35, 40))


def test_an_image_broken_once_is_not_tried_again():
    model = linear()
    data = dataset(model)
    told = []
    curve = accuracy_against_eps(Engine(model), data.images, data.labels, Linf(0.2), 0, lambda name, n: told.append(n))
    standing = [round(accuracy * curve["n"]) for accuracy in curve["attacked_accuracy"]]
    assert told == standing[:-1]


def test_the_grid_of_linf_ends_at_the_box():
    model = linear()
    data = dataset(model, n=4)
    engine = Engine(model)
    assert accuracy_against_eps(engine, data.images, data.labels, Linf(0.8), 0)["eps"][-2:] == [0.8 * 0.875 + 0.1, 1.0]
    assert accuracy_against_eps(engine, data.images, data.labels, L2(1.0), 0)["eps"][-1] == 1.5


def test_only_the_first_images_are_used():
    model = linear()
    data = dataset(model, n=MAX_IMAGES + 5)
    assert accuracy_against_eps(Engine(model), data.images, data.labels, Linf(0.01), 0)["n"] == MAX_IMAGES


def test_paths_of_a_linear_classifier_climb_to_one_height():
    model = linear(2)
    data = dataset(model, n=12, n_classes=2)
    paths = loss_paths(Engine(model), data.images, data.labels, THREAT, 0)
    # Images 0 and 9 are labelled wrongly.
    assert paths["indices"] == [1, 2, 3, 4, 5]
    loss = torch.tensor(paths["loss"])
    assert loss.shape == (5, paths["n_starts"], 101)
    assert (loss[..., 1:] >= loss[..., :-1] - 1e-5).all()
    assert (loss[..., -1].amax(dim=1) - loss[..., -1].amin(dim=1)).max() < 1e-4
    assert (loss[..., 0].amax(dim=1) - loss[..., 0].amin(dim=1)).min() > 1e-3


def test_no_correct_image_no_path():
    model = linear()
    data = dataset(model)
    x, y = data.images[1:9], (data.labels[1:9] + 2) % 4
    assert accuracy_against_eps(Engine(model), x, y, THREAT, 0)["attacked_accuracy"] == [0.0] * 11
    paths = loss_paths(Engine(model), x, y, THREAT, 0)
    assert (paths["indices"], paths["loss"]) == ([], [])
    surfaces = loss_surfaces(Engine(model), x, y, THREAT, 0)
    assert (surfaces["indices"], surfaces["loss"]) == ([], [])
    assert accuracy_against_steps(Engine(model), x, y, THREAT, 0)["attacked_accuracy"] == [0.0] * 101


def test_accuracy_falls_with_the_steps_and_never_rises():
    model = linear()
    data = dataset(model)
    x, y = data.images, data.labels
    found = accuracy_against_steps(Engine(model), x, y, THREAT, 0)
    accuracy = found["attacked_accuracy"]
    assert found["n"] == len(x)
    assert len(accuracy) == 101
    assert accuracy == sorted(accuracy, reverse=True)
    right = float((model(x).argmax(dim=1) == y).float().mean())
    # A linear classifier is attacked to its optimum: the images whose margin is below what eps can take from it.
    weight = model[1].weight.detach()
    gaps = model(x).gather(1, y[:, None]) - model(x)
    reach = THREAT.eps * (weight[y][:, None] - weight[None]).abs().sum(dim=2)
    fall = (gaps < reach).scatter(1, y[:, None], False).any(dim=1)
    assert accuracy[-1] == pytest.approx(float((~fall).float().mean()), abs=1e-6)
    assert accuracy[0] <= right


def test_the_surface_of_a_linear_classifier_is_a_plane_that_rises_along_the_gradient():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    x, y = images(4), torch.zeros(4, dtype=torch.int64)
    y = model(x).argmax(dim=1)
    found = loss_surfaces(Engine(model), x, y, THREAT, 0)
    assert found["indices"] == [0, 1, 2]
    for loss in torch.tensor(found["loss"]):
        assert loss.shape == (N_POINTS, N_POINTS)
        along, across = loss.diff(dim=0), loss.diff(dim=1)
        torch.testing.assert_close(along, along[:1, :1].expand_as(along), atol=5e-4, rtol=0)
        torch.testing.assert_close(across, across[:1, :1].expand_as(across), atol=5e-4, rtol=0)
        weight = (model[1].weight[0] - model[1].weight[1]).detach().abs().sum()
        assert float(loss[-1, 0] - loss[0, 0]) == pytest.approx(2 * THREAT.eps * float(weight), abs=1e-3)
