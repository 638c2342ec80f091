"""Objectives in which an earlier network has a say: distillation and cascade training."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_toys import linear, step_for

from casemate import checkpoint, models
from casemate.gradients import Engine
from casemate.losses import cross_entropy
from casemate.threat import Linf
from casemate.training import recipe as recipes
from casemate.training.cascade import CascadeTraining
from casemate.training.distilled import Distilled

D = 36
EPS = 0.1


@pytest.fixture
def model() -> nn.Sequential:
    return linear(torch.randn(D)).train()


def test_a_teacher_is_trained_on_logits_divided_by_the_temperature(model: nn.Sequential, x: Tensor, y: Tensor) -> None:
    loss = Distilled(temperature=20)(model, x, y, step=step_for(model, len(x)))
    torch.testing.assert_close(loss, F.cross_entropy(model(x) / 20, y))
    torch.testing.assert_close(
        Distilled(temperature=1)(model, x, y, step=step_for(model, len(x))), F.cross_entropy(model(x), y)
    )


def test_a_student_is_at_its_minimum_where_it_is_the_teacher(model: nn.Sequential, x: Tensor, y: Tensor) -> None:
    objective = Distilled(temperature=5, teacher=linear(model[1].weight[1].detach() - model[1].weight[0].detach()))
    loss = objective(model, x, y, step=step_for(model, len(x)))
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(gradient.abs().max() < 1e-6 for gradient in gradients)
    other = linear(torch.randn(D)).train()
    assert objective(other, x, y, step=step_for(other, len(x))) > loss
    # And the labels have no say.
    assert objective(model, x, 1 - y, step=step_for(model, len(x))) == loss


def test_logits_of_a_distilled_network_saturate_the_cross_entropy_and_not_the_margin() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    y = torch.tensor([1])
    sharp = (100 * logits).requires_grad_(True)
    (gradient,) = torch.autograd.grad(cross_entropy(sharp, y).sum(), sharp)
    assert (gradient == 0).all()
    cool = (100 * logits).requires_grad_(True)
    (gradient,) = torch.autograd.grad(cross_entropy(cool / 100, y).sum(), cool)
    assert (gradient != 0).all()


def examples(model: nn.Sequential, earlier: nn.Sequential | None, x: Tensor, y: Tensor) -> Tensor:
    """What is trained on: the whole batch, then its second half attacked."""
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]) if module.training else None)
    engine = None if earlier is None else Engine(earlier, precision="float32")
    CascadeTraining(Linf(EPS), engine)(model, x, y, step=step_for(model, len(x)))
    (batch,) = seen
    return batch


def corner(model: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """Where a linear model is worst."""
    w = (model[1].weight[1] - model[1].weight[0]).view(1, *x.shape[1:])
    return (x - EPS * (2 * y - 1).view(-1, 1, 1, 1) * w.sign()).clamp(0, 1)


def test_cascade_mixes_clean_one_step_and_earlier_examples(model: nn.Sequential, x: Tensor, y: Tensor) -> None:
    earlier = linear(torch.randn(D)).eval()
    n, half = len(x), len(x) - len(x) // 2
    batch = examples(model, earlier, x, y)
    assert torch.equal(batch[:n], x)
    attacked, second, labels = batch[n:], x[half:], y[half:]
    torch.testing.assert_close(attacked[::2], corner(earlier, second[::2], labels[::2]))
    torch.testing.assert_close(attacked[1::2], corner(model, second[1::2], labels[1::2]))


def test_the_first_network_of_a_cascade_trains_on_its_own_examples(model: nn.Sequential, x: Tensor, y: Tensor) -> None:
    half = len(x) - len(x) // 2
    torch.testing.assert_close(examples(model, None, x, y)[len(x) :], corner(model, x[half:], y[half:]))


def test_the_cascade_loss_is_the_weighted_mean_and_the_pull_of_the_embeddings(
    model: nn.Sequential, x: Tensor, y: Tensor
) -> None:
    half = len(x) - len(x) // 2
    x_adv = corner(model, x[half:], y[half:])
    objective = CascadeTraining(Linf(EPS), adversarial_weight=0.3, similarity=0.01)
    loss = objective(model, x, y, step=step_for(model, len(x)))
    weighted = F.cross_entropy(model(x[:half]), y[:half], reduction="sum") + 0.3 * F.cross_entropy(
        model(x_adv), y[half:], reduction="sum"
    )
    apart = (model(x_adv) - model(x[half:])).square().sum()
    torch.testing.assert_close(loss, weighted / (half + 0.3 * len(x_adv)) + 0.01 * apart)


@pytest.mark.parametrize("kind", ["distilled", "cascade"])
def test_a_recipe_names_the_folder_of_the_earlier_network(kind: str, tmp_path: Path) -> None:
    network = models.build("small-cnn", width=2)
    folder = tmp_path / "first"
    checkpoint.save(folder, network, {"architecture": "small-cnn", "arguments": {"width": 2}})
    content = {
        "data": "digits-sample",
        "model": {"name": "small-cnn"},
        "objective": {"kind": kind, "earlier": str(folder)},
        "threat": "linf:0.1",
    }
    objective = recipes.from_dict(content, "toy").build_objective()
    found = objective.teacher if isinstance(objective, Distilled) else objective.earlier.model  # type: ignore[union-attr]
    assert found is not None
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(found(x), network.eval()(x))
    assert not any(weight.requires_grad for weight in found.parameters())
