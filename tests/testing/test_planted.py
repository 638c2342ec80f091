"""What is planted hides its gradient as it says, decides as its twin does, and declares nothing."""

import re

import pytest
import torch
from torch import Tensor, nn

from casemate import PGD, Linf, image_keys, rng
from casemate.attacks import Attack
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import Labels, Values, cross_entropy, margin
from casemate.testing import PLANTED_ATTACKS, PLANTED_DEFENCES, PlantedDefence, models
from casemate.testing.planted import Inert, LastIterate, TinySteps
from casemate.threat import Images

SHAPE = (1, 8, 8)
DEFENCES = {planted.name: planted for planted in PLANTED_DEFENCES}
THREAT = Linf(0.2)
N = 16
KEYS = image_keys(0, torch.arange(N))
Y: Labels = torch.zeros(N, dtype=torch.int64)


def network() -> nn.Module:
    """A few units, with a module for its activation."""
    return models.seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)))


def grey() -> Images:
    return 0.3 + 0.4 * models.images(N, SHAPE, seed=2)


def linear() -> models.Linear:
    """Breaks at 0.6 eps around the images that `grey` scatters about 1/2, give or take what is theirs."""
    return models.Linear(SHAPE, bias=0.6 * float(models.Linear(SHAPE).gain(grey(), THREAT).min()))


def excess(model: nn.Module, x: Images) -> Values:
    with torch.no_grad():
        return margin(model(x), Y)


each = pytest.mark.parametrize("planted", PLANTED_DEFENCES, ids=lambda planted: planted.name)
each_fixed = pytest.mark.parametrize(
    "planted", [planted for planted in PLANTED_DEFENCES if planted.moves is not None], ids=lambda planted: planted.name
)


@each
def test_nothing_is_declared_and_the_classifier_is_left_as_it_is(planted: PlantedDefence) -> None:
    classifier = network().train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    model = planted(classifier)
    for module in model.modules():
        assert getattr(module, "surrogate", None) is None
        assert not getattr(module, "stochastic", False)
        assert not module.training
    assert not Engine(model).stochastic
    assert all(module.training for module in classifier.modules())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_names_are_unique_and_the_checks_are_those_of_the_list() -> None:
    everything = [*PLANTED_DEFENCES, *PLANTED_ATTACKS]
    assert len({planted.name for planted in everything}) == len(everything)
    for planted in everything:
        assert planted.trips
        assert all(re.fullmatch(r"G([1-9]|1[0-4])|I[1-6]|BIN", check) for check in planted.trips)


@each_fixed
def test_it_decides_as_its_twin_does_at_an_image_within_the_bound(planted: PlantedDefence) -> None:
    twin, x = network(), models.images(64, SHAPE)
    # Black, white and the edges of the cells of every kind of level.
    x[0], x[1] = 0, 1
    x[2] = (torch.arange(64) / 63).view(SHAPE)
    x[3] = (torch.arange(64) / 64).view(SHAPE)
    x[4] = (torch.arange(64) / 128).view(SHAPE)
    model = planted(twin)
    moved = x
    if planted.moves:
        assert isinstance(model, nn.Sequential)
        moved = model[:-1](x)
        distance = (moved - x).abs().amax()
        assert 0.9 * planted.moves < distance <= planted.moves + 1e-6
        assert ((moved >= 0) & (moved <= 1)).all()
    with torch.no_grad():
        assert torch.equal(model(x).argmax(dim=1), twin(moved).argmax(dim=1))


@each_fixed
def test_what_breaks_the_twin_breaks_it(planted: PlantedDefence) -> None:
    twin, x = linear(), grey()
    x_adv = PGD(n_steps=10, random_start=False)(twin, x, Y, THREAT, keys=KEYS)
    assert (excess(twin, x) < 0).all()
    assert (excess(twin, x_adv) > 0).all()
    # The attack stops where the image is just broken, so it goes the whole way first.
    x_adv = THREAT.project(x + THREAT.eps * twin.get_buffer("weight").sign(), x)
    model = planted(twin)
    assert (excess(model, x) < 0).all()
    assert (excess(model, x_adv) > 0).all()


@pytest.mark.parametrize(
    "name", ["3-bit quantisation", "logits times 100", "zero gradient", "flipped gradient", "jumps"]
)
def test_pgd_breaks_the_twin_and_leaves_it_standing(name: str) -> None:
    twin, x = linear(), grey()
    assert (excess(twin, PGD()(twin, x, Y, THREAT, keys=KEYS)) > 0).all()
    model = DEFENCES[name](twin)
    assert (excess(model, PGD()(model, x, Y, THREAT, keys=KEYS)) < 0).all()


def gradient(model: nn.Module, x: Images) -> Tensor:
    return Engine(model, precision="float32").gradient(x, Y[: len(x)], margin)[0]


@pytest.mark.parametrize("name", ["3-bit quantisation", "zero gradient"])
def test_the_gradient_is_zero(name: str) -> None:
    assert not gradient(DEFENCES[name](network()), grey()).any()


@pytest.mark.parametrize("name", ["thermometer code", "inner gradient loop"])
def test_the_gradient_is_cut_off(name: str) -> None:
    with pytest.raises(CasemateError, match="no gradient with respect to its images"):
        gradient(DEFENCES[name](network()), grey())


def test_the_gradient_is_flipped() -> None:
    twin, x = network(), grey()
    assert torch.equal(gradient(DEFENCES["flipped gradient"](twin), x), -gradient(twin, x))


def test_cross_entropy_saturates_and_the_margin_does_not() -> None:
    twin, x = linear(), grey()
    model = DEFENCES["logits times 100"](twin)
    saturated, _ = Engine(model, precision="float32").gradient(x, Y, cross_entropy)
    assert not saturated.any()
    torch.testing.assert_close(gradient(model, x), 100 * gradient(twin, x))
    x_adv = PGD(loss="margin")(model, x, Y, THREAT, keys=KEYS)
    assert (excess(model, x_adv) > 0).all()


def test_probabilities_are_what_is_refused_as_such() -> None:
    model, x = DEFENCES["probabilities"](network()), grey()
    torch.testing.assert_close(model(x).sum(dim=1), torch.ones(N))
    with pytest.raises(CasemateError, match="probabilities"):
        Engine(model).logits(x)


@pytest.mark.parametrize("name", ["input noise", "activation pruning"])
def test_it_draws_from_the_global_generator_whatever_keys_there_are(name: str) -> None:
    model, x = DEFENCES[name](network()), grey()
    with rng.drawing_from(KEYS), torch.no_grad():
        first, second = model(x), model(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    third = model(x)
    torch.manual_seed(3)
    assert torch.equal(model(x), third)


def test_the_noise_has_the_stated_size() -> None:
    layers = DEFENCES["input noise"](network())
    assert isinstance(layers, nn.Sequential)
    x = torch.zeros(200, *SHAPE)
    noise = layers[0](x)
    # The standard error of the deviation of 12,800 numbers is 0.6%, of their mean 0.0009.
    assert noise.std().item() == pytest.approx(0.1, rel=0.05)
    assert abs(noise.mean().item()) < 0.006


def test_the_mean_over_prunings_is_the_answer_of_the_twin() -> None:
    """With one hidden layer the logits are linear in what is pruned, so that their means are the twin's logits."""
    twin, draws = network(), 4000
    answers = DEFENCES["activation pruning"](twin)(grey()[:1].expand(draws, *SHAPE)).detach()
    # Six standard errors: beyond them with a probability of 2e-9 for each of the four logits.
    assert ((answers.mean(dim=0) - twin(grey()[:1])).abs() < 6 * answers.std(dim=0) / draws**0.5).all()


def test_pruning_needs_an_activation() -> None:
    with pytest.raises(CasemateError, match="no activation"):
        DEFENCES["activation pruning"](linear())


def test_mirrored_cells_are_their_own_inverse_and_half_of_the_signs_are_wrong() -> None:
    layers = DEFENCES["jumps"](network())
    assert isinstance(layers, nn.Sequential)
    x = models.images(64, SHAPE)
    x[0] = (torch.arange(64) / 128).view(SHAPE)
    assert torch.equal(layers[0](layers[0](x)), x)
    for value in (0.0, 1.0, 0.3):
        leaf = torch.full((1, *SHAPE), value, requires_grad=True)
        (slope,) = torch.autograd.grad(layers[0](leaf).sum(), leaf)
        assert (slope.abs() == 1).all()
        assert slope.sum() == 0


def test_the_gradient_of_jumps_holds_within_a_cell_and_not_beyond() -> None:
    twin = models.Linear(SHAPE)
    model = DEFENCES["jumps"](twin)
    # A quarter into a cell, so that a small step stays in it.
    x = ((20 + 80 * models.images(1, SHAPE)).floor() + 0.25) / 128
    directions = rng.normal(image_keys(5, torch.arange(400)), SHAPE).clamp(-2, 2)
    promised = (directions * gradient(model, x)).flatten(1).sum(dim=1)
    y: Labels = torch.zeros(400, dtype=torch.int64)

    def differences(step: float) -> Tensor:
        with torch.no_grad():
            return (margin(model(x + step * directions), y) - margin(model(x - step * directions), y)) / (2 * step)

    torch.testing.assert_close(differences(2**-11), promised, atol=0.02, rtol=0)
    mistaken = (differences(0.02) * promised < 0).float().mean()
    # A gradient that says nothing is wrong in half of 400 directions, give or take a fortieth.
    assert mistaken > 0.3


def test_the_loop_differentiates_inside_the_forward_pass_whoever_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    twin, x, calls = network(), grey(), []
    model = DEFENCES["inner gradient loop"](twin)
    grad = torch.autograd.grad

    def counted(*arguments, **named):  # type: ignore[no-untyped-def]
        calls.append(1)
        return grad(*arguments, **named)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    with torch.no_grad():
        answer, before = model(x), twin(x)
    assert len(calls) == 3
    # In the engine it runs in inference mode.
    torch.testing.assert_close(Engine(model).logits(x), answer)
    # And it does something: the image is more like the class it was taken for.
    taken_for = before.argmax(dim=1)
    assert (cross_entropy(answer, taken_for) < cross_entropy(before, taken_for)).all()


class Bump(nn.Module):
    """Images of one pixel are misclassified within 0.1 of 1/2, and the loss rises towards there from both sides."""

    def forward(self, x: Tensor) -> Tensor:
        ahead = 0.1 - (x.flatten(1).squeeze(1) - 0.5).abs()
        return torch.stack([torch.zeros_like(ahead), ahead], dim=1)


def test_the_last_iterate_walks_away_from_what_it_has_found() -> None:
    """Four steps of 0.25 end hopping from side to side of the bump, one of which may be on it."""
    n, threat = 64, Linf(0.4)
    x, keys, y = torch.full((n, 1, 1, 1), 0.3), image_keys(0, torch.arange(n)), torch.zeros(n, dtype=torch.int64)

    def broken(attack: Attack) -> Tensor:
        x_adv = attack(Bump(), x, y, threat, keys=keys)
        assert threat.contains(x_adv, x).all()
        return margin(Bump()(x_adv), y) > 0

    met, returned = broken(PGD(n_steps=4)), broken(LastIterate(n_steps=4))
    assert 0 < int(returned.sum()) < int(met.sum())
    assert not (returned & ~met).any()


def test_the_last_iterate_hides_what_starts_misclassified_where_the_gradient_is_flipped() -> None:
    (planted,) = (planted for planted in PLANTED_ATTACKS if planted.attack == LastIterate())
    assert planted.against is not None
    # So near the boundary that a random start is as likely as not beyond it.
    model, x = planted.against(models.Linear(SHAPE, bias=0.2)), torch.full((N, *SHAPE), 0.5)
    assert (excess(model, x) < 0).all()
    assert (excess(model, THREAT.sample(x, rng.fold(KEYS, "start"))) > 0).any()
    assert (excess(model, planted.attack(model, x, Y, THREAT, keys=KEYS)) < 0).all()


def test_tiny_steps_hardly_leave_the_image_and_would_go_on() -> None:
    twin, x = linear(), grey()
    x_adv, further = (TinySteps(n_steps)(twin, x, Y, THREAT, keys=KEYS) for n_steps in (40, 80))
    # The loss of a linear classifier grows with every step, to the last.
    torch.testing.assert_close((x_adv - x).abs(), torch.full_like(x, 40 * THREAT.eps / 1000), atol=1e-5, rtol=0)
    gone, gone_further = excess(twin, x_adv) - excess(twin, x), excess(twin, further) - excess(twin, x)
    torch.testing.assert_close(gone_further, 2 * gone, atol=0, rtol=1e-3)
    assert (excess(twin, further) < 0).all()


def test_the_inert_attack_asks_nothing_and_changes_nothing() -> None:
    x = grey()
    x_adv = Inert()(models.NotFinite(), x, Y, THREAT, keys=KEYS)
    assert torch.equal(x_adv, x)
    assert x_adv is not x


def test_impossible_settings_are_refused() -> None:
    for attack in (LastIterate(0), TinySteps(0)):
        with pytest.raises(CasemateError, match="at least 1 step"):
            attack(linear(), grey(), Y, THREAT, keys=KEYS)
