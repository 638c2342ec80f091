"""The engine against plain autograd, whatever the batch, the memory and the precision."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from casemate import rng
from casemate.errors import CasemateError
from casemate.gradients import Engine, engine_for, evaluating
from casemate.losses import LOSSES, cross_entropy, margin
from casemate.testing import models
from casemate.testing.conformance import leaving_no_trace

SHAPE = (3, 8, 8)


def keys(n: int, seed: int = 0) -> rng.Keys:
    return rng.image_keys(seed, torch.arange(n))


def rippled() -> nn.Module:
    return models.seeded(lambda: models.Rippled(SHAPE))


def batch(n: int) -> tuple[Tensor, Tensor]:
    return models.images(n, SHAPE), torch.arange(n) % models.N_CLASSES


def reference(model: nn.Module, x: Tensor, y: Tensor, loss: Any, target: Tensor | None = None) -> Tensor:
    """One image at a time, the plain way."""
    rows = []
    for image in range(len(x)):
        leaf = x[image : image + 1].clone().requires_grad_(True)
        at = slice(image, image + 1)
        loss(model(leaf), y[at], None if target is None else target[at]).backward()
        rows.append(leaf.grad)
    model.zero_grad()
    return torch.cat(rows) if rows else torch.zeros_like(x)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("targeted", [False, True])
def test_gradient_and_logits_are_those_of_autograd(name: str, targeted: bool) -> None:
    model, (x, y) = rippled(), batch(11)
    target = (y + 1) % models.N_CLASSES if targeted else None
    gradient, logits = Engine(model, precision="float32").gradient(x, y, LOSSES[name], target=target)
    expected = reference(model, x, y, LOSSES[name], target)
    assert gradient.dtype == logits.dtype == torch.float32
    assert gradient.shape == x.shape
    assert not gradient.requires_grad
    assert not logits.requires_grad
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert torch.allclose(logits, model(x), atol=1e-4)
    assert torch.allclose(Engine(model).logits(x), model(x), atol=1e-5)


@pytest.mark.parametrize("name", ["Rippled", "Modal", "Linear"])
def test_an_image_has_the_same_bits_in_every_batch(name: str) -> None:
    model = models.seeded(lambda: getattr(models, name)(SHAPE))
    x, y = batch(37)
    whole = Engine(model, precision="float32", batch_size=64)
    gradient, found = whole.gradient(x, y, cross_entropy)
    logits = whole.logits(x)
    for batch_size in (1, 5, 8, 16, 24):
        engine = Engine(model, precision="float32", batch_size=batch_size)
        other, found_other = engine.gradient(x, y, cross_entropy)
        assert torch.equal(gradient, other)
        assert torch.equal(found, found_other)
        assert torch.equal(logits, engine.logits(x))
    order = torch.randperm(37)
    assert torch.equal(whole.logits(x[order]), logits[order])
    assert torch.equal(whole.gradient(x[order], y[order], cross_entropy)[0], gradient[order])
    for image in (0, 36):
        assert torch.equal(whole.logits(x[image : image + 1]), logits[image : image + 1])


def test_empty_batch() -> None:
    engine = Engine(rippled())
    x, y = batch(0)
    gradient, logits = engine.gradient(x, y, cross_entropy, keys=keys(0))
    assert gradient.shape == (0, *SHAPE)
    assert logits.shape == engine.logits(x, keys=keys(0)).shape == (0, models.N_CLASSES)


@pytest.mark.usefixtures("_in_eights")
def test_padding_is_cut_off_and_seen_by_nobody() -> None:
    sizes = []

    class Spy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return super().forward(x.flatten(1))

    engine = Engine(Spy(192, 4), precision="float32", batch_size=16)
    x, y = batch(19)
    assert engine.logits(x).shape == (19, 4)
    assert sizes == [16, 8]
    seen: list[int] = []

    def loss(logits: Tensor, labels: Tensor, target: Tensor | None = None) -> Tensor:
        seen.append(len(labels))
        return margin(logits, labels)

    assert engine.gradient(x, y, loss)[0].shape == x.shape
    assert seen == [16, 8]


class Small(nn.Module):
    """Does not fit more than `room` images; counts how many it is given."""

    def __init__(self, room: int, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.room, self.error, self.sizes = room, error, []
        self.linear = nn.Linear(192, 4)

    def linear_only(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), self.linear)

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 TB.\nMore lines.")
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_running_out_of_memory_halves_the_batch_for_good(error: type[RuntimeError]) -> None:
    model, (x, y) = Small(room=20, error=error), batch(100)
    engine = Engine(model, precision="float32", batch_size=64)
    logits = engine.logits(x)
    assert torch.equal(logits, Engine(model.linear_only(), batch_size=16).logits(x))
    assert engine.batch_size == 16
    assert model.sizes[:3] == [64, 32, 16]
    gradient, _ = engine.gradient(x, y, margin)
    assert gradient.shape == x.shape


@pytest.mark.usefixtures("_in_eights")
def test_running_out_of_memory_in_the_middle_keeps_what_was_done() -> None:
    class Later(Small):
        def forward(self, x: Tensor) -> Tensor:
            self.room = 100 if len(self.sizes) < 1 else 20
            return super().forward(x)

    model, (x, _) = Later(room=100), batch(100)
    logits = Engine(model, batch_size=32).logits(x)
    assert model.sizes == [32, 32, 16, 16, 16, 16, 8]
    assert torch.equal(logits, Engine(model.linear_only(), batch_size=16).logits(x))


@pytest.mark.usefixtures("_in_eights")
def test_image_that_never_fits_is_one_sentence() -> None:
    x, y = batch(50)
    engine = Engine(Small(room=7), precision="float32", batch_size=1000)
    with pytest.raises(CasemateError, match=r"8 images do not fit the memory of cpu: .*1 TB\.$"):
        engine.logits(x)
    with pytest.raises(CasemateError, match="8 images do not fit"):
        engine.gradient(x, y, margin)


def test_other_errors_of_a_classifier_come_through() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        Engine(Broken(), batch_size=8).logits(batch(3)[0])


def test_batch_size_is_chosen_from_the_memory_an_image_takes() -> None:
    x, _ = batch(3)
    thin, wide = Engine(nn.Sequential(nn.Flatten(), nn.Linear(192, 4))), Engine(
        nn.Sequential(nn.Conv2d(3, 512, 3, padding=1), nn.ReLU(), nn.Conv2d(512, 512, 3, padding=1), nn.ReLU(),
                      nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 4))
    )  # fmt: skip
    thin.logits(x)
    wide.logits(x)
    assert thin.batch_size is not None
    assert wide.batch_size is not None
    assert thin.batch_size > wide.batch_size >= 8
    assert thin.batch_size % 8 == wide.batch_size % 8 == 0


class Rounded(nn.Module):
    """Flat almost everywhere; the surrogate is 3 x, whose gradient is not that of anything else here."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 255).round() / 255

    def surrogate(self, x: Tensor) -> Tensor:
        return 3 * x


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_backward_pass_goes_through_the_surrogate_and_the_forward_pass_does_not(dtype: Any) -> None:
    linear = models.Linear(SHAPE)
    x, y = batch(5)
    gradient, logits = Engine(nn.Sequential(Rounded(), linear), precision=dtype).gradient(x, 0 * y, margin)
    assert torch.allclose(gradient, 3 * linear.weight.expand_as(x), rtol=0.02)
    if dtype == "float32":
        assert torch.allclose(logits, linear(Rounded()(x)), atol=1e-5)
    assert not Engine(nn.Sequential(_Undeclared(), linear), precision=dtype).gradient(x, 0 * y, margin)[0].any()


class _Undeclared(Rounded):
    surrogate = None


def test_surrogates_inside_other_modules_and_with_weights_of_their_own() -> None:
    class RoundedAround(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.surrogate = nn.Conv2d(3, 3, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x.round()

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rounded = RoundedAround()

        def forward(self, x: Tensor) -> Tensor:
            return self.rounded(x)

    block, linear = Block(), models.Linear(SHAPE)
    x, y = batch(4)
    gradient, _ = Engine(nn.Sequential(nn.Identity(), block, linear), precision="float32").gradient(x, 0 * y, margin)
    expected = reference(nn.Sequential(block.rounded.surrogate, linear), x, 0 * y, margin)
    assert torch.allclose(gradient, expected, atol=1e-5)
    assert "forward" not in vars(block.rounded), "the classifier of the user is not patched"


@pytest.mark.usefixtures("_in_eights")
def test_surrogate_of_another_shape_is_refused() -> None:
    rounded = Rounded()
    rounded.surrogate = lambda x: x[:, :1]  # type: ignore[method-assign]
    x, y = batch(2)
    with pytest.raises(CasemateError, match=r"a surrogate must return the shape of its layer, \[8, 3, 8, 8\], not"):
        Engine(nn.Sequential(rounded, models.Linear(SHAPE)), precision="float32").gradient(x, y, margin)


class Scaled(nn.Module):
    """Multiplies each image by 1 plus noise; the gradient of a linear classifier is random with a known mean."""

    stochastic = True

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + rng.normal(rng.layer_keys(x, "scaled"), (1, 1, 1)))


def test_layer_that_cuts_the_gradient_off_is_one_sentence() -> None:
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor(x.detach().tolist())

    x, y = batch(2)
    with pytest.raises(CasemateError, match="no gradient with respect to its images: declare a surrogate"):
        Engine(nn.Sequential(Detached(), models.Linear(SHAPE)), precision="float32").gradient(x, y, margin)


def test_gradient_of_a_randomised_classifier_is_the_mean_over_its_draws() -> None:
    linear = models.Linear(SHAPE)
    x, y = batch(5)
    engine = Engine(nn.Sequential(Scaled(), linear), precision="float32", draws=12)
    assert engine.stochastic
    gradient, logits = engine.gradient(x, 0 * y, margin, keys=keys(5))
    draws = [rng.normal(rng.fold(keys(5), "eot", draw, "scaled"), (1, 1, 1)) for draw in range(12)]
    factor = torch.stack([1 + draw for draw in draws]).mean(dim=0)
    assert torch.allclose(gradient, factor * linear.weight, atol=1e-4)
    expected = torch.stack([linear(x * (1 + draw)) for draw in draws]).mean(dim=0)
    assert torch.allclose(logits, expected, atol=1e-3)


def test_a_classifier_in_numpy_has_logits_but_no_gradient() -> None:
    class Numpy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            grey = x.numpy().mean(axis=(1, 2, 3))
            return torch.stack([torch.from_numpy(1 - grey), torch.from_numpy(grey)], dim=1) - 3

    x, y = batch(40)
    engine = Engine(Numpy())
    grey = x.mean(dim=(1, 2, 3))
    assert torch.allclose(engine.logits(x), torch.stack([1 - grey, grey], dim=1) - 3, atol=1e-6)
    with pytest.raises(RuntimeError, match="numpy"):
        engine.gradient(x, 0 * y, margin)


def test_draws_are_counted_once_and_a_classifier_without_noise_has_one() -> None:
    x, y = batch(40)
    quiet, noisy = models.Linear(SHAPE), nn.Sequential(Scaled(), models.Linear(SHAPE))
    engine = Engine(noisy, precision="float32")
    assert engine.draws is None
    engine.gradient(x, 0 * y, margin, keys=keys(40))
    first = engine.draws
    # The gradient of a linear classifier is scaled by the mean of the draws, so that two means always agree in sign
    # unless one is negative: 2 draws have a mean below 0 with probability Phi(-sqrt(2)), 8%.
    assert first in (1, 2)
    engine.gradient(x[:3], 0 * y[:3], margin, keys=keys(3, seed=7))
    assert engine.draws == first
    assert Engine(quiet).draws == Engine(quiet, draws=5).draws == 1
    with pytest.raises(CasemateError, match="the number of draws must be at least 1, not 0"):
        Engine(noisy, draws=0)


def test_draws_belong_to_the_image_and_the_verdict_has_its_own() -> None:
    x, y = batch(21)
    model = nn.Sequential(Scaled(), models.Linear(SHAPE))
    engine = Engine(model, precision="float32", batch_size=8)
    state = torch.get_rng_state()
    gradient, logits = engine.gradient(x, y, margin, keys=keys(21))
    verdict = engine.logits(x, keys=keys(21))
    assert torch.equal(state, torch.get_rng_state())
    order = torch.randperm(21)
    shuffled, _ = Engine(model, precision="float32").gradient(x[order], y[order], margin, keys=keys(21)[order])
    assert torch.allclose(shuffled, gradient[order], atol=1e-5)
    assert torch.equal(engine.logits(x[order], keys=keys(21)[order]), verdict[order])
    assert not torch.equal(engine.logits(x, keys=keys(21, seed=1)), verdict)
    assert not torch.allclose(verdict, logits, atol=1e-2)


def test_choosing_the_batch_size_leaves_the_global_random_state_alone() -> None:
    x, _ = batch(3)
    state = torch.get_rng_state()
    Engine(nn.Sequential(Scaled(), models.Linear(SHAPE))).logits(x, keys=keys(3))
    assert torch.equal(state, torch.get_rng_state())


def test_gradient_that_is_not_finite_counts_as_zero() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            # The gradient is infinite at 0 and NaN where 0 times it is taken.
            return torch.stack([x[:, 0, 0, 0].sqrt(), 0 * x[:, 0, 0, 1].sqrt() + x[:, 0, 0, 2]], dim=1)

    x = torch.zeros(2, *SHAPE)
    gradient, _ = Engine(Root(), precision="float32").gradient(x, torch.tensor([0, 1]), margin)
    assert gradient.isfinite().all()
    assert gradient[0, 0, 0, :3].tolist() == [0, 0, 1]
    assert gradient[1, 0, 0, :3].tolist() == [0, 0, -1]


def test_bfloat16_is_for_the_search_alone() -> None:
    model, (x, y) = models.seeded(lambda: models.Modal(SHAPE)), batch(16)
    exact, low = Engine(model, precision="float32"), Engine(model, precision="bfloat16")
    gradient, _ = exact.gradient(x, y, cross_entropy)
    near, logits = low.gradient(x, y, cross_entropy)
    assert (exact.search_precision, low.search_precision) == ("float32", "bfloat16")
    assert near.dtype == logits.dtype == torch.float32
    assert not torch.equal(near, gradient)
    agreement = torch.cosine_similarity(near.flatten(1), gradient.flatten(1))
    assert (agreement > 0.98).all()
    assert torch.equal(low.logits(x), exact.logits(x))


def test_auto_runs_in_one_of_the_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casemate.precision._may_be_faster_in_bfloat16", lambda device: True)
    monkeypatch.setattr("casemate.precision._faster", {})
    engine = Engine(rippled())
    x, y = batch(8)
    assert torch.equal(engine.gradient(x, y, margin)[0], engine.gradient(x, y, margin)[0])
    assert engine.search_precision in ("float32", "bfloat16")


def test_refresh_follows_the_weights() -> None:
    model, (x, y) = models.seeded(lambda: models.Modal(SHAPE)), batch(8)
    engine = Engine(model, precision="float32")
    before, _ = engine.gradient(x, y, cross_entropy)
    engine.refresh()
    assert torch.equal(engine.gradient(x, y, cross_entropy)[0], before)
    model.train()(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.eval()
    engine.refresh()
    after, logits = engine.gradient(x, y, cross_entropy)
    fresh, fresh_logits = Engine(model, precision="float32").gradient(x, y, cross_entropy)
    assert torch.equal(after, fresh)
    assert torch.equal(logits, fresh_logits)
    assert not torch.equal(after, before)
    Engine(model).refresh()


def test_classifier_is_never_changed() -> None:
    model = models.seeded(lambda: nn.Sequential(Rounded(), models.Modal(SHAPE)))
    model.train()
    model.get_submodule("1.body.1").eval()
    x, y = batch(5)
    with leaving_no_trace("the engine", model, x=x, y=y):
        engine = Engine(model, precision="float32")
        engine.gradient(x, y, cross_entropy)
        engine.logits(x)
        engine.refresh()


def test_evaluating_restores_each_mode_even_after_an_exception() -> None:
    model = models.Modal(SHAPE)
    model.get_submodule("body.3").eval()
    before = [module.training for module in model.modules()]

    def fail() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [module.training for module in model.modules()] == before


def test_a_model_in_eval_mode_is_not_set_to_it_again_and_leaves_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.Modal(SHAPE).eval()

    def refuse(mode: bool = True) -> None:
        raise AssertionError("a mode was set")

    monkeypatch.setattr(model, "train", refuse)
    with evaluating(model):
        model.get_submodule("body.3").training = True
    assert not any(module.training for module in model.modules())


def test_works_where_the_caller_has_switched_gradients_off() -> None:
    model, (x, y) = rippled(), batch(4)
    expected, _ = Engine(model, precision="float32").gradient(x, y, margin)
    with torch.no_grad():
        engine = Engine(model, precision="float32")
        assert torch.equal(engine.gradient(x, y, margin)[0], expected)
        assert engine.logits(x).shape == (4, models.N_CLASSES)
    assert (Engine(model).logits(x).requires_grad, torch.is_grad_enabled()) == (False, True)


def test_answers_can_be_used_in_further_computations() -> None:
    # Tensors made in inference mode cannot.
    logits = Engine(rippled()).logits(batch(4)[0])
    weight = torch.ones(4, requires_grad=True)
    (logits * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda z: z * torch.nan, "NaN among the logits of image 0"),
        (lambda z: z.softmax(dim=1), "probabilities"),
        (lambda z: z[:, :1], "at least 2 classes"),
        (lambda z: z.argmax(dim=1), r"returned shape \[3\]"),
        (lambda z: (z, z), "returned a tuple"),
        (lambda z: {"logits": z}, "returned a dict"),
    ],
)
def test_answer_that_is_not_logits_is_refused(answer: Any, message: str) -> None:
    class Answer(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return answer(x.flatten(1)[:, :4] * 3 - 1)

    with pytest.raises(CasemateError, match=message):
        Engine(Answer()).logits(batch(3)[0])


def test_settings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(CasemateError, match="unknown precision 'float16': choose one of auto, float32, bfloat16"):
        Engine(rippled(), precision="float16")  # type: ignore[arg-type]
    with pytest.raises(CasemateError, match="the batch size must be at least 1, not 0"):
        Engine(rippled(), batch_size=0)


def test_engine_for_keeps_an_engine() -> None:
    engine = Engine(rippled())
    assert engine_for(engine) is engine
    assert engine_for(engine.model).model is engine.model


class WritesIntoItsInput(nn.Module):
    """Rounds in place, as careless preprocessing does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2).flatten(1)[:, :2] * 3


@pytest.mark.parametrize("n", [13, 16])
def test_a_model_that_writes_into_its_input_leaves_the_images_alone(n: int) -> None:
    x = models.images(n, (1, 4, 4))
    before, engine = x.clone(), Engine(WritesIntoItsInput())
    y = torch.zeros(n, dtype=torch.int64)
    logits = engine.logits(x)
    engine.gradient(x, y, cross_entropy)
    assert torch.equal(x, before)
    assert torch.allclose(logits, 6 * before.flatten(1)[:, :2])


class Offset(nn.Module):
    """Logits with a constant added, which softmax does not see and bfloat16 cannot hold."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.inner, self.offset = models.seeded(lambda: models.Rippled(SHAPE)), offset

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.offset


class Upcast(nn.Flatten):
    """Hands float32 to the next layer, which fails where its weights are in another precision."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


@pytest.mark.parametrize(("seconds", "chosen"), [(0.5, "bfloat16"), (0.9, "float32"), (1.5, "float32")])
def test_bfloat16_is_chosen_where_it_is_clearly_faster(
    seconds: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {torch.float32: 1.0, torch.bfloat16: seconds}
    monkeypatch.setattr("casemate.precision._may_be_faster_in_bfloat16", lambda device: True)
    monkeypatch.setattr("casemate.precision._gradient_seconds", lambda search, x, dtype: taken[dtype])
    monkeypatch.setattr("casemate.precision._faster", {})
    engine, (x, y) = Engine(rippled()), batch(16)
    engine.gradient(x, y, cross_entropy)
    assert engine.search_precision == chosen


def test_bfloat16_is_not_chosen_for_a_layer_that_does_not_run_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casemate.precision._may_be_faster_in_bfloat16", lambda device: True)
    monkeypatch.setattr("casemate.precision._measure_faster", lambda model, x: torch.bfloat16)
    monkeypatch.setattr("casemate.precision._faster", {})
    x, y = batch(16)
    for layer, chosen in ((nn.Flatten(), "bfloat16"), (Upcast(), "float32")):
        engine = Engine(nn.Sequential(layer, nn.Linear(192, 4)))
        engine.gradient(x, y, cross_entropy)
        assert engine.search_precision == chosen


@pytest.mark.parametrize(("offset", "chosen"), [(0.0, "bfloat16"), (3000.0, "float32")])
def test_bfloat16_is_not_chosen_where_it_loses_the_logits(
    offset: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casemate.precision._may_be_faster_in_bfloat16", lambda device: True)
    monkeypatch.setattr("casemate.precision._measure_faster", lambda model, x: torch.bfloat16)
    monkeypatch.setattr("casemate.precision._faster", {})
    engine, (x, y) = Engine(Offset(offset)), batch(16)
    engine.gradient(x, y, cross_entropy)
    assert engine.search_precision == chosen
