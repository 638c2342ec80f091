import torch
from audit_toys import THREAT, convolutional, dataset, linear

from casemate.audit.curves import MAX_IMAGES, accuracy_against_eps, loss_paths
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
