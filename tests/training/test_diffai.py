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
from casemate.errors import CasemateError
from casemate.threat import Linf
from casemate.training import recipe as recipes
from casemate.training.diffai import DiffAI, read_goal
from casemate.training.diffai.goals import InSamp, LinMix
from casemate.training.diffai.schedules import Constant, Lin, Until
from casemate.training.interval import IntervalTraining
from casemate.training.train import Settings, train

# As their experiments are named.
PUBLISHED = (
    "LinMix(a=IFGSM(k=3, w=Lin(0,0.2,100,20)), b=InSamp(Lin(0,1,150,50), w=Lin(0,0.2,150,50)), bw=Lin(0,.5,150,50))"
)


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))


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
        "BiAdv(IFGSM(1))",
        "InSamp(1)",
        "PGD(20, r=9)",
    ):
        torch.testing.assert_close(loss_of(goal, model, x, y), worst, rtol=1e-4, atol=1e-5)
    for goal in ("AdvDom(IFGSM(1))", "AdvInclusion(0.3, IFGSM(1))", "AdvInclusion(0.3, IFGSM(1, w=eps))"):
        torch.testing.assert_close(loss_of(goal, model, x, y), worst, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss_of("LinMix(Point, Box, 0.25)", model, x, y), 0.75 * clean + 0.25 * worst)
    torch.testing.assert_close(loss_of("Mix(Point, Box, 1, 3)", model, x, y), 0.25 * clean + 0.75 * worst)
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
    "goal", ["InSamp(0.4)", "AdvInclusion(0.4, PGD(3))", "AdvDom(IFGSM(3))", "BiAdv(PGD)", "NormalPoint(0.1)", "PGD"]
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
    # The same keys draw the same.
    assert loss_of(goal, network, x, y) == found


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
