"""The Square attack against the best of linear classifiers, its schedule, its budget and its moves."""

import math
from dataclasses import replace

import pytest
import torch
from attack_toys import SHAPE, Asked, Unmoved, at_distances, keys, zeros
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from casemate import L1, L2, Linf, rng
from casemate.attacks import Square
from casemate.attacks.squares import N_PLACES, _bump, _shrunk, squares_for
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import margin
from casemate.testing import check_attack, models
from casemate.threat import Threat

LARGEST = 1 - 2.0**-24
NORMS = [Linf(0.1), L2(0.5), L1(2.0)]


@pytest.mark.parametrize(
    ("query", "halvings"),
    [(0, 0), (10, 0), (11, 1), (50, 1), (51, 2), (200, 2), (201, 3), (501, 4), (1001, 5), (2001, 6), (4000, 6)]
    + [(4001, 7), (6001, 8), (8000, 8), (8001, 9), (9999, 9)],
)
def test_schedule_is_the_published_one_and_stretches(query: int, halvings: int) -> None:
    assert Square(n_queries=10_000, p_init=0.8).share(query) == 0.8 / 2**halvings
    assert Square(n_queries=20_000, p_init=0.3).share(2 * query) == 0.3 / 2**halvings


def test_all_of_the_schedule_is_run_whatever_the_number_of_queries() -> None:
    shares = [Square(n_queries=500).share(query) for query in range(500)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 0.8
    assert shares[-1] == 0.8 / 512
    assert shares.count(0.8 / 512) == 99


@pytest.mark.parametrize("shape", [(1, 2, 4), (2, 2, 2)])
def test_finds_the_best_of_a_linear_classifier_in_linf(shape: models.Shape) -> None:
    # Nothing that is right is ever given up, and a pixel is right for good once a square of its size asked about the
    # best of its 2^channels colours. After 2% of the queries all squares are of that size.
    n_pixels, n_colours = shape[1] * shape[2], 2 ** shape[0]
    assert 8 * n_pixels * (1 - 1 / (n_pixels * n_colours)) ** (0.98 * 450) < 1e-10
    x = models.images(8, shape)
    # Out of reach, and near enough for the other two classes to play no part.
    model = models.Linear(shape, bias=15.0)
    x_adv = Square(n_queries=450)(model, x, zeros(8), Linf(0.3), keys=keys(8))
    gained = margin(model(x_adv), zeros(8)) - margin(model(x), zeros(8))
    torch.testing.assert_close(gained.double(), model.gain(x, Linf(0.3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("threat", "share"), [(L2(1.0), 0.5), (L1(3.0), 0.7)], ids=str)
def test_comes_near_the_best_of_a_linear_classifier(threat: L2 | L1, share: float) -> None:
    # The first four images are black, so that half of all changes meet the box at once.
    x = models.images(8, (1, 6, 6))
    x[:4] = 0
    model = models.Linear((1, 6, 6), bias=15.0)
    found = {}
    for n_queries in (1, 20, 250):
        x_adv = Square(n_queries=n_queries)(model, x, zeros(8), threat, keys=keys(8))
        gained = margin(model(x_adv), zeros(8)) - margin(model(x), zeros(8))
        found[n_queries] = gained.double() / model.gain(x, threat)
    assert (found[250] > share).all()
    assert (found[250] < 1 + 1e-4).all()
    assert (found[20] > found[1]).all()
    assert (found[20] < found[250]).all()


class Summit(nn.Module):
    """Never wrong, and nearest to it at grey 0.5."""

    def forward(self, x: Tensor) -> Tensor:
        distance = (x - 0.5).abs().flatten(1).sum(dim=1)
        return torch.stack([distance, -1 - distance], dim=1)


def test_the_walk_begins_at_its_stripes_even_where_the_image_is_better() -> None:
    model, x = models.Recorded(Summit()), torch.full((1, 1, 8, 8), 0.5)
    x_adv = Square(n_queries=10)(Engine(model, precision="float32"), x, zeros(1), Linf(0.25), keys=keys(1))
    # The first pass chooses the batch size, the second is the clean one.
    clean, *asked = model.seen[1:]
    assert torch.equal(clean[0], x[0])
    assert len(asked) == 10
    assert torch.equal(asked[0], asked[0][:, :, :1].expand_as(asked[0])), "stripes are vertical"
    assert all(((points - 0.5).abs() - 0.25).abs().max() < 1e-6 for points in asked)
    assert torch.equal(x_adv, x)


@pytest.mark.parametrize("threat", NORMS, ids=str)
def test_an_image_costs_its_queries_while_it_stands(threat: Threat) -> None:
    model = Asked(Unmoved(), precision="float32")
    x = models.images(3, SHAPE)
    Square(n_queries=70)(model, x, zeros(3), threat, keys=keys(3))
    assert model.n_points == 3 * (1 + 70)


def test_an_image_that_falls_leaves_at_once() -> None:
    linear = models.Linear(SHAPE)
    distances = torch.tensor([-0.1, *[1e-4] * 40, 0.4])
    model = Asked(linear, precision="float32")
    x_adv = Square(n_queries=200)(model, at_distances(linear, distances), zeros(42), Linf(0.1), keys=keys(42))
    assert (margin(linear(x_adv), zeros(42)) > 0).tolist() == [True] * 41 + [False]
    # Each colour has the sign of the weight in half of the pixels: a few queries are enough for what is so close.
    assert model.n_points < 42 + 200 + 40 * 20


class Denying(nn.Module):
    """Wrong whenever it is asked about another point than the time before, and right when it is asked again."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(())
        self.n_passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n_passes += 1
        again = torch.equal(self.last, x) or self.n_passes <= 2
        self.last = x.clone()
        ahead = torch.full((len(x),), -1.0 if again else 1.0)
        return torch.stack([-ahead, ahead], dim=1)


def test_what_a_second_question_denies_is_no_success() -> None:
    model, x = Denying(), models.images(1, SHAPE)
    x_adv = Square(n_queries=5)(model, x, zeros(1), Linf(0.1), keys=keys(1))
    # One pass chooses the batch size; then the clean image, and each of five points twice.
    assert model.n_passes == 2 + 2 * 5
    assert torch.equal(x_adv, x)


@pytest.mark.parametrize("threat", NORMS, ids=str)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)),
    share=st.floats(0.001, 1),
    seed=st.integers(0, 1000),
    eps=st.floats(0.01, 1.5),
)
def test_moves_stay_inside(threat: Linf | L2 | L1, shape: models.Shape, share: float, seed: int, eps: float) -> None:
    threat = replace(threat, eps=eps)
    squares, x = squares_for(threat), models.images(4, shape, seed=seed)
    x[0], x[1] = 0, 1
    anchors = squares.anchors(x)
    x_adv = squares.start(anchors, keys(4, seed))
    assert (threat.measure(x_adv, x) <= eps).all()
    for query in range(2):
        draws = rng.uniform(rng.fold(keys(4, seed), query), (N_PLACES + shape[0],))
        x_adv = squares.moved(x_adv, anchors, share, draws)
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        assert threat.contains(x_adv, x).all()


@given(height=st.integers(1, 9), width=st.integers(1, 9), channels=st.integers(1, 3), seed=st.integers(0, 1000))
def test_every_square_in_linf_is_another_image(height: int, width: int, channels: int, seed: int) -> None:
    x = models.images(6, (channels, height, width), seed=seed)
    squares = squares_for(Linf(0.1))
    anchors = squares.anchors(x)
    # Of one colour already in most of the squares.
    x_adv = anchors[seed % 2].clone()
    for query in range(5):
        draws = rng.uniform(rng.fold(keys(6, seed), query), (N_PLACES + channels,))
        moved = squares.moved(x_adv, anchors, 1 / (height * width), draws)
        assert (moved != x_adv).any(dim=1).flatten(1).sum(dim=1).tolist() == [1] * 6
        x_adv = moved


@pytest.mark.parametrize("threat", NORMS, ids=str)
def test_squares_reach_every_edge(threat: Threat) -> None:
    x = torch.full((2, 1, 6, 8), 0.5)
    squares = squares_for(threat)
    draws = torch.zeros(2, N_PLACES + 1)
    draws[1, :2] = LARGEST
    moved = squares.moved(x.clone(), squares.anchors(x), 9 / 48, draws) != x
    expected = torch.zeros(2, 1, 6, 8, dtype=torch.bool)
    expected[0, :, :3, :3] = expected[1, :, 3:, 5:] = True
    assert moved.flatten(1).any(dim=1).all()
    assert not (moved & ~expected).any()
    if isinstance(threat, Linf):
        assert torch.equal(moved, expected)


@pytest.mark.parametrize("threat", [L2(0.5), L1(2.0)], ids=str)
@pytest.mark.parametrize("grey", [0.0, 0.5])
def test_all_of_the_budget_is_spent_in_the_box_too(threat: L2 | L1, grey: float) -> None:
    x = torch.full((8, 3, 12, 12), grey)
    squares = squares_for(threat)
    anchors = squares.anchors(x)
    x_adv = squares.start(anchors, keys(8))
    for query in range(20):
        draws = rng.uniform(rng.fold(keys(8), query), (N_PLACES + 3,))
        x_adv = squares.moved(x_adv, anchors, 0.1, draws)
        assert (threat.measure(x_adv, x) > (1 - 1e-3) * threat.eps).all()


@pytest.mark.parametrize("threat", [L2(0.5), L1(2.0)], ids=str)
def test_every_move_takes_from_where_the_change_is(threat: L2 | L1) -> None:
    x = torch.full((50, 1, 20, 20), 0.5)
    x_adv = x.clone()
    x_adv[:, 0, 4, 15] = 0.9
    draws = rng.uniform(keys(50), (N_PLACES + 1,))
    # What is taken goes into the first corner.
    draws[:, :2] = 0
    moved = squares_for(threat).moved(x_adv, (x,), 9 / 400, draws) - x
    assert (moved[:, 0, 4, 15] == 0).all()
    assert (moved[:, 0, :3, :3] != 0).flatten(1).any(dim=1).all()
    assert (moved != 0).flatten(1).sum(dim=1).max() <= 9


def test_a_move_in_l2_is_that_of_algorithm_3() -> None:
    # Two channels; the window to fill is in the first corner, the one to empty meets it in one pixel, and everything is
    # far from the box.
    x = torch.full((1, 2, 6, 6), 0.5)
    x_adv = x + 0.01 * rng.normal(keys(1), (2, 6, 6))
    change = x_adv.double() - x
    mass = change.square().sum()
    eps = 1.25 * float(mass.sqrt())
    upto = change.square().sum(dim=1).flatten().cumsum(dim=0) / mass
    which = float(upto[2 * 6 + 1] + upto[2 * 6 + 2]) / 2
    draws = torch.tensor([[0.0, 0.0, which, 0.0, 0.9, 0.1, 0.9]])
    moved = squares_for(L2(eps)).moved(x_adv, (x,), 9 / 36, draws).double() - x

    expected = change.clone()
    expected[:, :, 2:5, 2:5] = 0
    unspent = (eps * (1 - 1e-5)) ** 2 - mass
    for channel, sign in ((0, 1), (1, -1)):
        window = change[0, channel, :3, :3]
        direction = window / window.norm() + sign * _bump(3, 2, 2, x.device).double().T
        taken = change[0, channel, 2:5, 2:5].square().sum() - change[0, channel, 2, 2].square()
        budget = window.square().sum() + taken + unspent / 2
        expected[0, channel, :3, :3] = direction / direction.norm() * budget.sqrt()
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)


def test_bumps_are_pyramids_beside_their_negatives() -> None:
    upper, lower = torch.tensor([[0.25, 1.25, 0.25]]), torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]])
    whole = torch.cat([upper / upper.norm(), -lower / lower.norm()]) / math.sqrt(2)
    torch.testing.assert_close(_bump(3, 2, 2, torch.device("cpu")), whole)
    ring, top = 1 / 16, 17 / 16
    upper, lower = torch.tensor([[ring, top, ring]]), torch.tensor([[ring] * 3, [ring, top, ring]])
    whole = torch.cat([upper / upper.sum(), -lower / lower.sum()]) / 2
    torch.testing.assert_close(_bump(3, 1, 4, torch.device("cpu")), whole)


@given(seed=st.integers(0, 1000), radius=st.floats(0.01, 30), power=st.integers(1, 6))
def test_shrinking_is_the_projection_onto_the_l1_ball(seed: int, radius: float, power: int) -> None:
    # In the middle of a box that is never met.
    change = 0.4 * (2 * rng.uniform(keys(4, seed), (1, 8, 8)) - 1).pow(power)
    shrunk = _shrunk(change.flatten(1), radius)
    middle = torch.full_like(change, 0.5)
    exact = (L1(radius).project(middle + change, middle) - middle).flatten(1)
    assert (shrunk.double().abs().sum(dim=1) <= radius * (1 + 1e-6)).all()
    assert (shrunk - exact).abs().max() <= 0.02 * change.abs().max()


@pytest.mark.parametrize("threat", NORMS, ids=str)
def test_keeps_the_promises_of_an_attack(threat: Threat) -> None:
    check_attack(Square(n_queries=12), threats=[threat], breaks_linear=False)


class Anywhere:
    """A threat model that is no norm."""

    eps = 1.0

    def project(self, *args: Tensor) -> Tensor:
        raise AssertionError("it is refused before it is asked")

    sample = ascent = measure = contains = project

    def __str__(self) -> str:
        return "anywhere"


def test_another_threat_model_is_refused() -> None:
    with pytest.raises(CasemateError, match="Square searches in linf, l2 or l1, so anywhere is not a threat model"):
        squares_for(Anywhere())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_queries": 0}, "Square needs at least 1 query, not 0"),
        ({"p_init": 0.0}, r"p_init of Square is a share of an image's pixels in \(0, 1\], not 0.0"),
        ({"p_init": 1.5}, "p_init of Square"),
        ({"p_init": math.nan}, "p_init of Square"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        Square(**settings)  # type: ignore[arg-type]
