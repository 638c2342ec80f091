"""DiffAI's goals and language: what is read, when it holds, and what each goal is the loss of."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_objectives import EPS, worst_case
from torch import Tensor, nn
from training_toys import linear, quick, step_for

from casemate import rng
from casemate.bounds import Interval
from casemate.errors import CasemateError
from casemate.threat import Linf
from casemate.training import recipe as recipes
from casemate.training.diffai import DiffAI, read_goal
from casemate.training.diffai.batch import Batch
from casemate.training.diffai.goals import MIFGSM, InSamp
from casemate.training.diffai.mixtures import DList, LinMix
from casemate.training.diffai.schedules import Constant, Lin, Until
from casemate.training.interval import IntervalTraining
from casemate.training.train import Settings, train

# As their experiments are named.
PUBLISHED = (
    "LinMix(a=IFGSM(k=3, w=Lin(0,0.2,100,20)), b=InSamp(Lin(0,1,150,50), w=Lin(0,0.2,150,50)), bw=Lin(0,.5,150,50))"
)


@pytest.fixture
def network(x: Tensor, y: Tensor) -> nn.Sequential:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 2)
    )
    # Were it constant around an image, every goal inside of the ball would be the clean loss.
    moved = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(network(moved), y, reduction="sum"), moved)
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()
    return network


def loss_of(goal: str, model: nn.Module, x: Tensor, y: Tensor, epoch: float = 0.0) -> Tensor:
    objective = DiffAI(Linf(EPS), read_goal(goal, EPS))
    return objective(model, x, y, step=step_for(model, len(x), epoch=epoch))


def test_a_published_formula_is_read() -> None:
    goal = read_goal(PUBLISHED, 0.1)
    assert isinstance(goal, LinMix)
    assert goal.bw == Lin(0, 0.5, 150, 50)
    assert goal.b == InSamp(Lin(0, 1, 150, 50), Lin(0, 0.2, 150, 50))
    assert read_goal("Box(w=1.1*eps)", 0.1).w.at(3) == pytest.approx(0.11)  # type: ignore[attr-defined]
    assert read_goal("Box(w=8/255)", 0.1).w == Constant(8 / 255)  # type: ignore[attr-defined]
    assert read_goal("DList((1, InSamp(0.5)), (0.2, MI_FGSM(k=3, mu=0.8)))", 0.1) == DList(
        ((Constant(1), InSamp(Constant(0.5))), (Constant(0.2), MIFGSM(k=3, mu=0.8)))
    )
    assert read_goal("Point", 0.1) == read_goal("Point()", 0.1)
    assert read_goal("Box(w=Until(10, 0.1, Lin(0.1, eps, 5)))", 0.3).w == Until(10, Constant(0.1), Lin(0.1, 0.3, 5))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Bax()", "a goal is one of Point"),
        ("Box(w=)", "no expression"),
        ("__import__('os').system('true')", "a goal is one of"),
        ("Box(width=0.1)", "Box takes w"),
        ("Box(w=Point())", "a number is one such as"),
        ("LinMix(Point())", "LinMix takes a, b, bw"),
        ("LinMix(Point(), 0.1)", "a goal is one of"),
        ("IFGSM(k=0)", "k must be a whole number from 1"),
        ("IFGSM(k=2.5)", "k must be a whole number from 1"),
        ("AdvDom(Box())", "a must look for a point"),
        ("Box(*[1])", "one by one"),
        ("(" * 5000, "no expression"),
        ("Until", "Until takes epoch, a, b"),
        ("Box(w=1" + "0" * 400 + ")", "no finite number"),
        ("Box(w=1e999)", "no finite number"),
        ("Box(w=eps/0)", "no finite number"),
        ("Box(w=Until)", "a number is expected"),
        ("MI_FGSM(mu=-1)", "mu must not be below 0"),
        ("Mix(Point, Box, 0, 0)", "one of the weights must be above 0"),
        ("DList((0, Point))", "one of the weights must be above 0"),
        ("DList()", "pairs of a weight and a goal"),
        ("DList(a=(1, Point))", "pairs of a weight and a goal"),
        ("DProb((1, Point), 2)", "a weight and a goal are expected"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(text: str, words: str) -> None:
    with pytest.raises(CasemateError, match="cannot be read") as refused:
        read_goal(text, 0.1)
    assert words in str(refused.value)
    with pytest.raises(CasemateError, match=r"quick: objective\.diffai\.goal"):
        quick(objective={"kind": "diffai", "goal": text})


def test_schedules_against_their_definition() -> None:
    rising = Lin(0.2, 1.0, 4.0, 2.0)
    assert [rising.at(t) for t in (0, 2, 3, 4, 6, 9)] == pytest.approx([0.2, 0.2, 0.4, 0.6, 1.0, 1.0])
    assert [Lin(0, 1, 0, 2).at(t) for t in (1.9, 2.0)] == [0, 1]
    later = Until(3, Constant(5), rising)
    assert [later.at(t) for t in (2.9, 3, 6, 9)] == pytest.approx([5, 0.2, 0.4, 1.0])


def test_goals_that_are_exact_for_a_linear_model(x: Tensor, y: Tensor) -> None:
    model = linear(torch.randn(36))
    worst, clean = worst_case(model, x, y, EPS, 1), F.cross_entropy(model(x), y)
    torch.testing.assert_close(loss_of("Point", model, x, y), clean)
    for goal in (
        "Box",
        "HBox",
        "HSwitch()",
        "ZNIPS(w=eps)",
        "IFGSM(k=1)",
        "MI_FGSM(k=3, mu=0.5)",
        "BiAdv(IFGSM(1))",
        "InSamp(1)",
        "PGD(20, r=9)",
    ):
        torch.testing.assert_close(loss_of(goal, model, x, y), worst, rtol=1e-4, atol=1e-5)
    for goal in ("AdvDom(IFGSM(1))", "AdvInclusion(0.3, IFGSM(1))", "AdvInclusion(0.3, IFGSM(1, w=eps))"):
        torch.testing.assert_close(loss_of(goal, model, x, y), worst, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss_of("LinMix(Point, Box, 0.25)", model, x, y), 0.75 * clean + 0.25 * worst)
    torch.testing.assert_close(loss_of("Mix(Point, Box, 1, 3)", model, x, y), 0.25 * clean + 0.75 * worst)
    torch.testing.assert_close(
        loss_of("DList((1, Point), (3, Box), (-1, Box))", model, x, y), 0.25 * clean + 0.75 * worst
    )
    torch.testing.assert_close(loss_of("DProb((0, Point), (2, Box))", model, x, y), worst)
    torch.testing.assert_close(loss_of("Coin(Point, Box, 1)", model, x, y), worst)
    torch.testing.assert_close(loss_of("Coin(Point, Box, 0)", model, x, y), clean)


def test_time_is_counted_in_epochs(x: Tensor, y: Tensor) -> None:
    model = linear(torch.randn(36))
    clean = F.cross_entropy(model(x), y)
    for epoch, share in ((1.0, 0.0), (2.0, 0.0), (3.0, 0.5), (5.0, 1.0)):
        expected = worst_case(model, x, y, EPS * share, 1)
        torch.testing.assert_close(loss_of("Box(Lin(0, eps, 2, 2))", model, x, y, epoch), expected)
    for epoch, expected in ((0.5, clean), (2.0, worst_case(model, x, y, EPS / 2, 1))):
        torch.testing.assert_close(loss_of("Until(1, Point, Box(Lin(0, eps, 2)))", model, x, y, epoch), expected)


@pytest.mark.parametrize(
    "goal", ["Box", "HBox", "HDiag", "HSwitch", "HSmooth", "HNIPS", "ZBox", "ZDiag", "ZSwitch", "ZSmooth", "ZNIPS"]
)
def test_a_domain_over_the_ball_is_above_the_loss_at_its_points(
    network: nn.Sequential, x: Tensor, y: Tensor, goal: str
) -> None:
    bound = loss_of(goal, network, x, y)
    for seed in range(30):
        points = Linf(EPS).sample(x, rng.image_keys(seed, torch.arange(len(x))))
        assert F.cross_entropy(network(points), y) <= bound + 1e-5
    gradients = torch.autograd.grad(bound, list(network.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize(
    "goal",
    [
        "MI_FGSM(k=3, r=2)",
        "InSamp(0.4)",
        "AdvInclusion(0.4, PGD(3))",
        "AdvDom(IFGSM(3))",
        "BiAdv(PGD)",
        "NormalPoint(0.1)",
        "PGD",
    ],
)
def test_what_is_inside_the_ball_loses_no_more_than_its_box(
    network: nn.Sequential, x: Tensor, y: Tensor, goal: str
) -> None:
    whole = loss_of("Box", network, x, y)
    torch.testing.assert_close(whole, IntervalTraining(Linf(EPS), kappa=0, warm_up=0, ramp=0)(
        network, x, y, step=step_for(network, len(x), progress=0.9)
    ))  # fmt: skip
    found = loss_of(goal, network, x, y)
    assert found.isfinite()
    if "Normal" not in goal:
        assert found <= whole + 1e-6
    gradients = torch.autograd.grad(found, list(network.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[0].abs().max() > 0
    # The same keys draw the same.
    assert loss_of(goal, network, x, y) == found


def test_goals_are_nested_as_what_they_bound(network: nn.Sequential, x: Tensor, y: Tensor) -> None:
    losses = [loss_of(f"Box(w={share}*eps)", network, x, y) for share in (0, 0.3, 0.6, 1.0, 1.5)]
    torch.testing.assert_close(losses[0], loss_of("Point", network, x, y))
    assert all(smaller < larger for smaller, larger in zip(losses, losses[1:], strict=False))
    # Hybrid zonotopes with boxed ReLUs are never looser than intervals, nor an attack above what they allow.
    assert loss_of("PGD", network, x, y) <= loss_of("HBox", network, x, y) + 1e-6
    assert loss_of("HBox", network, x, y) <= loss_of("Box", network, x, y) + 1e-6
    # The box of one attack is in its mirrored one, and that in the ball.
    assert loss_of("AdvDom(IFGSM(3))", network, x, y) <= loss_of("BiAdv(IFGSM(3))", network, x, y) + 1e-6
    assert loss_of("BiAdv(IFGSM(3))", network, x, y) <= loss_of("Box", network, x, y) + 1e-6


def test_a_width_of_0_is_the_clean_loss_with_the_statistics_of_the_batch(x: Tensor, y: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).train()
    clean = F.cross_entropy(model(x), y)
    for goal in ("Box(0)", "HSwitch(0)", "InSamp(0, w=0)", "IFGSM(k=2, w=0)", "NormalPoint(0)"):
        torch.testing.assert_close(loss_of(goal, model, x, y), clean, rtol=1e-4, atol=1e-5)


def test_a_recipe_trains_by_a_goal(tmp_path: Path) -> None:
    model: dict[str, Any] = {"name": "diffai-conv-small", "arguments": {"norm": True}}
    goal = "LinMix(a=IFGSM(k=2, w=Lin(0, eps, 3)), b=InSamp(Lin(0, 1, 4), w=Lin(0, eps, 4)), bw=Lin(0, 0.5, 4))"
    recipe = quick(objective={"kind": "diffai", "goal": goal}, model=model, epochs=5, optimiser={"lr": 0.005})
    card = train(recipe, tmp_path / "run", Settings(precision="float32"))
    assert card["metrics"]["clean"] > 0.3
    assert recipes.from_dict(card["recipe"], "card") == recipe


def test_a_weight_that_is_0_for_a_time_is_refused_then(x: Tensor, y: Tensor) -> None:
    model = linear(torch.randn(36))
    with pytest.raises(CasemateError, match="above 0 at epoch 1"):
        loss_of("DList((Lin(0, 1, 2, 1), Point))", model, x, y, epoch=1.0)
    torch.testing.assert_close(
        loss_of("DList((Lin(0, 1, 2, 1), Point))", model, x, y, epoch=2.0), F.cross_entropy(model(x), y)
    )


def test_goals_by_chance_are_taken_as_often_as_their_weights_say(x: Tensor, y: Tensor) -> None:
    model = linear(torch.randn(36))
    clean, worst = F.cross_entropy(model(x), y), worst_case(model, x, y, EPS, 1)

    def share_of_worst(goal: str) -> float:
        objective, taken = DiffAI(Linf(EPS), read_goal(goal, EPS)), 0
        for number in range(400):
            loss = objective(model, x, y, step=step_for(model, len(x), number=number))
            taken += int(abs(loss - worst) < 1e-4)
            assert min(abs(loss - worst), abs(loss - clean)) < 1e-4
        return taken / 400

    # Four standard deviations of 400 draws.
    assert share_of_worst("DProb((1, Point), (3, Box))") == pytest.approx(0.75, abs=0.09)
    assert share_of_worst("Coin(Point, Box, 0.3)") == pytest.approx(0.3, abs=0.09)
    # A draw inside of another is one of its own: together they take the box a quarter of the time, not half.
    assert share_of_worst("Coin(Point, Coin(Point, Box, 0.5), 0.5)") == pytest.approx(0.25, abs=0.09)


def test_momentum_is_that_of_its_definition(x: Tensor, y: Tensor) -> None:
    torch.manual_seed(3)
    # Leaky: where a gradient is zero, attacks here go somewhere by chance.
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.LeakyReLU(0.1), nn.Linear(64, 2))
    n_steps, mu = 4, 0.7
    points, followed = x, torch.zeros_like(x)
    for _ in range(n_steps):
        points = points.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(points), y, reduction="sum"), points)
        followed = mu * followed + gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
        moved = points + 2 * EPS / n_steps * followed.sign()
        points = torch.minimum(torch.maximum(moved, x - EPS), x + EPS).clamp(0, 1).detach()
    expected = F.cross_entropy(network(points), y)
    torch.testing.assert_close(loss_of(f"MI_FGSM(k={n_steps}, r=2, mu={mu})", network, x, y), expected)
    assert loss_of("MI_FGSM(k=4, mu=0)", network, x, y) == loss_of("IFGSM(k=4)", network, x, y)
    # It matters here: without it the path is another one.
    assert loss_of(f"MI_FGSM(k={n_steps}, r=2, mu={mu})", network, x, y) != loss_of("IFGSM(k=4, r=2)", network, x, y)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_boxes_of_inclusion_sampling_are_inside_the_ball(
    x: Tensor, y: Tensor, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes: list[Interval] = []
    over = Batch.over

    def noted(batch: Batch, domain: Any, value: Any) -> Tensor:
        boxes.append(value)
        return over(batch, domain, value)

    monkeypatch.setattr(Batch, "over", noted)
    for goal in (f"InSamp({share})", f"AdvInclusion({share}, PGD(3))", "BiAdv(IFGSM(2))", "AdvDom(PGD)"):
        loss_of(goal, linear(torch.randn(36)), x, y)
    for box in boxes:
        assert (box.lower >= (x - EPS).clamp(min=0) - 1e-6).all()
        assert (box.upper <= (x + EPS).clamp(max=1) + 1e-6).all()
    assert boxes[0].radius.max() == pytest.approx(share * EPS, abs=1e-6)
