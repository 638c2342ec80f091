"""Each remedy keeps its word: it never changes a decision, and what it follows instead is the gradient it names."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from casemate import Linf, image_keys, rng
from casemate.audit.remedies.candidates import linf_radius, ways_of
from casemate.audit.remedies.identity import IdentityUpTo, PassedThrough
from casemate.audit.remedies.logarithm import Logarithm
from casemate.audit.remedies.plan import Plan
from casemate.audit.remedies.scores import FromScores
from casemate.audit.remedies.seeded import Seeded, seeded
from casemate.audit.remedies.smoothed import Smoothed
from casemate.audit.remedies.ways import (
    BySource,
    Estimated,
    Learned,
    Nearby,
    Own,
    Plain,
    Through,
    UpTo,
    Way,
    as_json,
    from_json,
)
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import margin
from casemate.testing import models
from casemate.threat import L2

SHAPE = (1, 8, 8)
KEYS = image_keys(0, torch.arange(16))


def network() -> nn.Sequential:
    return models.seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)))  # type: ignore[return-value]


class Round(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (7 * x).round() / 7


class Codes(nn.Module):
    """Four switches for each value."""

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.arange(4, device=x.device)[:, None, None] / 4
        return (x > levels).float()


class RoundedInside(nn.Module):
    """Rounds what a layer of its own with a true gradient answers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = (7 * self.scale(x)).round()
        return answer


def gradient(model: nn.Module, x: Tensor, stand_in: nn.Module | None = None) -> Tensor:
    engine = Engine(model, precision="float32", stand_in=stand_in)
    y = torch.zeros(len(x), dtype=torch.int64)
    return engine.gradient(x, y, margin, keys=KEYS[: len(x)])[0]


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=6).filter(lambda values: max(values) > 1e-30))
def test_the_logarithm_decides_as_the_probabilities_do(values: list[float]) -> None:
    answers = torch.tensor([values])
    logits = Logarithm(nn.Identity())(answers)
    assert logits.isfinite().all()
    top = answers == answers.amax()
    # Ties stay ties and nothing else becomes one.
    assert torch.equal(logits == logits.amax(), top)
    assert torch.equal(logits.argmax(dim=1), answers.argmax(dim=1))


def test_two_probabilities_that_differ_in_the_last_bit_are_told_apart() -> None:
    low = torch.tensor(0.4)
    answers = torch.stack([low, torch.nextafter(low, torch.tensor(1.0)), torch.tensor(0.2)])[None]
    logits = Logarithm(nn.Identity())(answers)
    assert logits.argmax() == 1
    assert logits[0, 0] < logits[0, 1]


def test_the_logarithm_restores_logits_and_their_gradient() -> None:
    x, plain = models.images(16, SHAPE), network()
    restored = Logarithm(nn.Sequential(plain, nn.Softmax(dim=1)))
    expected = plain(x).log_softmax(dim=1)
    expected = expected - expected.amax(dim=1, keepdim=True)
    torch.testing.assert_close(restored(x), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient(restored, x), gradient(plain, x), atol=1e-5, rtol=1e-3)


class Secret(nn.Module):
    """Draws behind everyone's back, as `draw` does."""

    def __init__(self, draw: object) -> None:
        super().__init__()
        self.draw, self.network = draw, network()

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.network(self.draw(x))  # type: ignore[operator]
        return answer


BY_ROW = {
    "normal": lambda x: x + 0.1 * torch.randn_like(x),
    "rand": lambda x: x * torch.rand(len(x), 1, 1, 1),
    "in place": lambda x: x + torch.empty_like(x).uniform_(-0.1, 0.1) + torch.empty_like(x).normal_(0, 0.1),
    "dropout": lambda x: nn.functional.dropout(x, 0.5),
    "Bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.7)),
    "integers": lambda x: x + torch.randint(0, 3, (len(x), 1, 1, 1)) / 10,
}
NOT_BY_ROW = {
    "one crop for all": lambda x: x.roll(int(torch.randint(0, 8, ())), dims=3),
    "a permutation": lambda x: x[:, :, torch.randperm(8)],
    "numpy": lambda x: x + 0.1 * torch.from_numpy(np.random.randn(*x.shape)).float(),
    "Python": lambda x: x + random.random() / 2,
}


@pytest.mark.parametrize("name", [*BY_ROW, *NOT_BY_ROW])
def test_seeded_answers_follow_the_key_whatever_the_batch_and_leave_no_trace(name: str) -> None:
    x = models.images(16, SHAPE)
    model = seeded(Secret({**BY_ROW, **NOT_BY_ROW}[name]), x[:4])
    assert model.one_by_one == (name in NOT_BY_ROW)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index,union-attr]

    def answer(at: Tensor, keys: rng.Keys = KEYS) -> Tensor:
        with rng.drawing_from(keys[at]), torch.no_grad():
            result: Tensor = model(x[at])
        return result

    everything = torch.arange(16)
    whole = answer(everything)
    torch.testing.assert_close(answer(everything), whole, atol=0, rtol=0)
    order = everything.flip(0)
    torch.testing.assert_close(answer(order), whole[order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answer(everything[3:4]), whole[3:4], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(answer(everything, rng.fold(KEYS, 1)), whole)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index,union-attr]
    assert random.getstate() == states[2]
    # Without keys it is what it was: another answer every time.
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("name", "mean", "deviation"), [("normal", 0.5, 0.1), ("rand", 0.25, 0.1443), ("dropout", 0.5, 0.5)]
)
def test_what_keys_draw_has_the_distribution_that_was_asked_for(name: str, mean: float, deviation: float) -> None:
    n = 4096
    model = Seeded(Secret(BY_ROW[name]), one_by_one=False)
    model.model.network = nn.Flatten()
    with rng.drawing_from(image_keys(1, torch.arange(n))):
        drawn = model(torch.full((n, *SHAPE), 0.5))[:, 0]
    # Six standard errors of a mean, and a tenth for a deviation of 4,096 draws, eight of its standard errors or more.
    assert abs(float(drawn.mean()) - mean) < 6 * deviation / n**0.5
    assert float(drawn.std()) == pytest.approx(deviation, rel=0.1)


def test_the_identity_up_to_a_submodule_follows_its_gradient_where_it_is_called() -> None:
    x, inner = models.images(16, SHAPE), network()
    model = nn.Sequential(Round(), inner)
    for whole in (True, False):
        stand_in = IdentityUpTo(model, "1", whole=whole)
        assert torch.equal(stand_in(x), model(x))
        torch.testing.assert_close(gradient(model, x, stand_in), gradient(inner, Round()(x)))
    assert not gradient(model, x).any()


def test_what_is_passed_through_is_the_identity_backwards_alone() -> None:
    x = models.images(16, SHAPE)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), Round(), nn.Linear(16, 4)).eval()
    stand_in = PassedThrough(model, ("2",))
    torch.testing.assert_close(stand_in(x), model(x))
    straight = nn.Sequential(model[0], model[1], model[3])
    # The last layer is linear, so that where it is asked does not matter to its gradient but through the runner-up.
    y = torch.zeros(16, dtype=torch.int64)
    target = torch.ones(16, dtype=torch.int64)
    found, _ = Engine(model, precision="float32", stand_in=stand_in).gradient(x, y, margin, target=target)
    expected, _ = Engine(straight, precision="float32").gradient(x, y, margin, target=target)
    torch.testing.assert_close(found, expected)


def test_a_stand_in_changes_the_gradient_and_not_the_answers() -> None:
    x, inner = models.images(16, SHAPE), network()
    model, other = nn.Sequential(Round(), inner), models.Linear(SHAPE)
    engine = Engine(model, precision="float32", stand_in=other)
    y = torch.zeros(16, dtype=torch.int64)
    found, logits = engine.gradient(x, y, margin)
    expected, _ = Engine(other, precision="float32").gradient(x, y, margin)
    torch.testing.assert_close(found, expected)
    assert torch.equal(logits, engine.logits(x))
    torch.testing.assert_close(logits, model(x))


def test_estimated_and_smoothed_gradients_are_those_of_a_linear_classifier() -> None:
    """For an affine function both are unbiased; the estimate of 2,048 pairs has a cosine of 0.985 with 64 pixels."""
    model, x = models.Linear(SHAPE), 0.3 + 0.4 * models.images(4, SHAPE)
    exact = gradient(model, x)
    smoothed = gradient(model, x, Smoothed(model, 0.05))
    torch.testing.assert_close(smoothed, exact, atol=1e-5, rtol=1e-4)
    engine = Engine(model, precision="float32", draws=1, stand_in=FromScores(model, 0.05, 2048))
    estimated, _ = engine.gradient(x, torch.zeros(4, dtype=torch.int64), margin, keys=KEYS[:4])
    cosine = torch.cosine_similarity(estimated.flatten(1), exact.flatten(1))
    # 1 / sqrt(1 + 64 / 2048) on average; it scatters by less than 0.01.
    assert (cosine > 0.95).all()
    length = estimated.flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert ((length - 1).abs() < 0.2).all()


def test_the_ways_are_found_from_outside() -> None:
    x = models.images(8, SHAPE)

    def ways(model: nn.Module) -> list[Way]:
        # Which network has learnt it does not matter here.
        found = ways_of(model.eval(), x, Linf(0.1), seed=0)
        return [replace(way, sha256="") if isinstance(way, Learned) else way for way in found]

    found = ways(nn.Sequential(Round(), network()))
    assert found == [Own(), UpTo("1", whole=True), Through(("0",)), Learned(("0",), ""), Nearby(0.025)]
    # Nothing has touched the image before its first layer, and every layer's gradient is true.
    assert ways(network()) == [Own(), Nearby(0.025)]
    inside = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), Round(), nn.Linear(16, 4))
    assert ways(inside) == [Own(), Through(("2",)), Learned(("2",), ""), Nearby(0.025)]
    split = nn.Sequential(Round(), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4))
    assert UpTo("1", whole=False) in ways(split)
    # No identity leads through a layer that changes the shape, nor around a container that rounds by itself.
    coded = nn.Sequential(Codes(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(72, 4))
    assert ways(coded) == [Own(), Learned(("0",), ""), Nearby(0.025)]
    held = nn.Sequential(RoundedInside(), nn.Flatten(), nn.Linear(64, 4))
    assert ways(held) == [
        Own(), UpTo("1", whole=False), Through(("0",)), Learned(("0",), ""), Nearby(0.025)
    ]  # fmt: skip


def test_activations_that_write_into_their_input_and_layers_of_two_arguments_are_left_as_they_are() -> None:
    class Added(nn.Module):
        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            return x + other

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.relu = nn.Linear(64, 16), nn.ReLU(inplace=True)
            self.added, self.last = Added(), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.relu(self.first(x.flatten(1)))
            answer: Tensor = self.last(self.added(hidden, hidden))
            return answer

    assert ways_of(Network(), models.images(8, SHAPE), Linf(0.1), seed=0) == [Own(), Nearby(0.025)]


def test_the_radius_of_a_pixel_is_that_of_an_even_change() -> None:
    x = models.images(1, SHAPE)
    assert linf_radius(Linf(0.3), x) == 0.3
    assert linf_radius(L2(2.0), x) == pytest.approx(2.0 / 8)


WAYS: list[Way] = [
    Own(), Plain(), UpTo("1.0", whole=False), Through(("a", "b")), Learned(("a", "b"), "12ab"), Nearby(0.1),
    BySource("another", "34cd"), Estimated(0.1, 8),
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: type(way).__name__)
def test_a_plan_is_what_its_run_stored(way: Way) -> None:
    assert from_json(as_json(way), {}) == way
    source = BySource("another", "34cd", network())
    plan = Plan(logarithm=True, seeded="in batches", way=way, n_queries=5000, sources=(source,))
    assert Plan.from_json(plan.as_json(), {}) == plan
    assert plan.beyond(plan) == ""
    assert "5000 queries" in plan.beyond(Plan())
    assert "transfer from another after" in plan.beyond(Plan())
    assert [stage.name for stage in plan.stages(Linf(0.1))] == ["transfer from another", "Square-5000"]
    assert Plan().stages(Linf(0.1)) == ()


def test_networks_of_a_stored_plan_are_those_that_are_known_and_none_else() -> None:
    model = network()
    plan = Plan(way=BySource("another", "34cd", model), sources=(BySource("another", "34cd", model),))
    found = Plan.from_json(plan.as_json(), {"34cd": model})
    assert found.stand_in(network()) is model
    assert found.transfers()[0].source is model
    lost = Plan.from_json(plan.as_json(), {"56ef": model})
    for use in (lambda: lost.stand_in(model), lost.transfers):
        with pytest.raises(CasemateError, match="the gradient of another, which is not at hand"):
            use()
    with pytest.raises(CasemateError, match="no classifier"):
        Plan.from_json({**plan.as_json(), "sources": [as_json(Own())]}, {})


def test_a_way_that_nobody_knows_is_refused() -> None:
    for stored in ({"kind": "Magic"}, {}, {"kind": "Nearby", "eps": 1}):
        with pytest.raises(CasemateError, match="no known way"):
            from_json(stored, {})


def test_all_remedies_together_decide_as_the_classifier_does() -> None:
    x = models.images(16, SHAPE)
    model = nn.Sequential(Round(), network(), nn.Softmax(dim=1))
    plan = Plan(logarithm=True, way=UpTo("1", whole=True))
    engine = plan.engine(model, precision="float32")
    assert torch.equal(engine.logits(x).argmax(dim=1), model(x).argmax(dim=1))
    assert gradient(engine.model, x, engine.stand_in).any()
