"""Certified training by intervals, against closed forms and against what the clean pass computes."""

import pytest
import torch
import torch.nn.functional as F
from test_objectives import EPS, worst_case
from torch import Tensor, nn
from training_toys import linear, quick, step_for

from casemate import checkpoint, data, models
from casemate.bounds import IBP, Intervals, Tracing, box_of, propagate
from casemate.threat import Linf
from casemate.training.certified import worst_case_loss
from casemate.training.interval import IntervalTraining
from casemate.training.regularisers import tightness_and_balance
from casemate.training.statistics import recording
from casemate.training.train import Settings, train


def normed() -> nn.Sequential:
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 2),
    )  # fmt: skip
    return network.train()


def test_the_worst_case_of_a_linear_model_and_its_gradient(x: Tensor, y: Tensor) -> None:
    model = linear(torch.randn(36)).train()
    objective = IntervalTraining(Linf(EPS), kappa=0.0, warm_up=0.0, ramp=0.5)
    loss = objective(model, x, y, step=step_for(model, 16, progress=0.5))
    expected = worst_case(model, x, y, EPS, 1)
    torch.testing.assert_close(loss, expected)
    (gradient,), (wanted,) = (torch.autograd.grad(value, list(model.parameters())) for value in (loss, expected))
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


def test_kappa_and_eps_grow_together(x: Tensor, y: Tensor) -> None:
    model = linear(torch.randn(36)).train()
    objective = IntervalTraining(Linf(EPS), kappa=0.4, warm_up=0.2, ramp=0.4)
    clean = F.cross_entropy(model(x), y)
    for progress, share in ((0.1, 0.0), (0.2, 0.0), (0.3, 0.25), (0.5, 0.75), (0.6, 1.0), (0.9, 1.0)):
        assert objective.share(progress) == pytest.approx(share)
        kappa = 1 - 0.6 * share
        expected = kappa * clean + (1 - kappa) * worst_case(model, x, y, EPS * share, 1)
        torch.testing.assert_close(objective(model, x, y, step=step_for(model, 16, progress=progress)), expected)


def test_smooth_growth_is_the_fourth_power_and_then_straight() -> None:
    objective = IntervalTraining(Linf(EPS), warm_up=0.0, ramp=1.0, growth="smooth")
    shares = [objective.share(step / 1000) for step in range(1001)]
    assert shares[0] == 0
    assert shares[1000] == pytest.approx(1)
    assert shares[100] / shares[200] == pytest.approx(1 / 16)
    rises = [after - before for before, after in zip(shares, shares[1:], strict=False)]
    assert rises[250:] == pytest.approx([rises[500]] * 750)
    assert rises[249] == pytest.approx(rises[250], rel=0.01)


def test_without_a_ball_the_intervals_are_the_clean_pass_with_the_statistics_of_the_batch(x: Tensor, y: Tensor) -> None:
    model = normed()
    with recording(model) as statistics:
        logits = model(x)
    domain = Intervals()
    graph = Tracing(model, x).graph(statistics)
    values = propagate(graph, domain, box_of(Linf(1e-12), x, domain))
    torch.testing.assert_close(values[-1].centre, logits, rtol=1e-4, atol=1e-5)
    # Not the running statistics, which say something else after one batch.
    assert (Tracing(model, x).graph().nodes[2].operation.factor - graph.nodes[2].operation.factor).abs().max() > 1e-3  # type: ignore[union-attr]
    loss = IntervalTraining(Linf(1e-12), kappa=0.0, warm_up=0.0, ramp=0.0)(model, x, y, step=step_for(model, 16))
    torch.testing.assert_close(loss, F.cross_entropy(logits, y), rtol=1e-4, atol=1e-5)
    # The gradient flows through the statistics too.
    wanted = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    for found, expected in zip(torch.autograd.grad(loss, list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4)


def test_a_step_moves_running_statistics_as_one_clean_pass_does(x: Tensor, y: Tensor) -> None:
    model = normed()
    twin = normed()
    twin.load_state_dict(model.state_dict())
    IntervalTraining(Linf(EPS), warm_up=0.0)(model, x, y, step=step_for(model, 16, progress=0.9))
    twin(x)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, twin.get_buffer(name)), name
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("norm", [True, False])
def test_the_clean_pass_is_made_where_something_reads_it(x: Tensor, y: Tensor, norm: bool) -> None:
    model = normed() if norm else linear(torch.randn(36)).train()
    calls: list[bool] = []
    # Tracing calls it too, in eval mode.
    model.register_forward_hook(lambda *_: calls.append(model.training))
    for kappa, n_calls in ((0.5, 1), (0.0, int(norm))):
        IntervalTraining(Linf(EPS), kappa=kappa, warm_up=0.0, ramp=0.0)(model, x, y, step=step_for(model, 16))
        assert sum(calls) == n_calls
        calls.clear()


def test_the_worst_case_loss_is_the_cross_entropy_of_the_worst_logits() -> None:
    margins = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    by_hand = torch.log(1 + (-margins).exp().sum(dim=1)).mean()
    torch.testing.assert_close(worst_case_loss(margins), by_hand)


def test_regularisers_are_their_formulas_on_a_layer_worked_out_by_hand() -> None:
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[4.0, 4.0], [-1.0, -1.0]]))
    model = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(2, 2))
    x, domain = torch.tensor([[0.2, 0.4], [0.6, 0.8]]).view(2, 1, 1, 2), Intervals()
    graph = Tracing(model, x).graph()
    values = propagate(graph, domain, box_of(Linf(0.01), x, domain))
    # Radii of 0.01 before, of 0.08 and 0.02 behind the layer; centres 2.4, 5.6 and -0.6, -1.4.
    tight = 0.5 - 0.01 / 0.05
    mean = 0.5 - (0.6 + 1.4) / (2.4 + 5.6)
    spread = 0.5 - (0.4**2) / (1.6**2)
    expected = torch.tensor((tight + mean + spread) / 0.5)
    torch.testing.assert_close(tightness_and_balance(graph, values).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_certifies_digits(tmp_path) -> None:  # type: ignore[no-untyped-def]
    recipe = quick(
        model={"name": "gowal-small", "arguments": {"width": 4, "norm": True, "init": "ibp"}},
        objective={"kind": "interval", "kappa": 0.0, "ramp": 0.5, "growth": "smooth", "regulariser": 0.5},
        optimiser={"lr": 0.003, "clip": 10},
        epochs=6,
        hold_out=1000,
        check={"n": 50, "n_steps": 2, "every": 6},
    )
    train(recipe, tmp_path, Settings(accelerator="cpu", precision="float32"))
    model, _ = checkpoint.load(tmp_path)
    digits = data.load("digits-sample", "test", limit=200)
    share = float(IBP().certify(model, digits.images, digits.labels, Linf(0.1)).holds.double().mean())
    # Two thirds and more in trials; a network that was not trained for it, or against attacks alone, has none.
    assert share > 0.4
    torch.manual_seed(0)
    fresh = models.build("gowal-small", width=4)
    assert not IBP().certify(fresh, digits.images, digits.labels, Linf(0.1)).holds.any()
