"""PGD against closed forms, its cost, and what it returns."""

import math

import pytest
import torch
from attack_toys import SHAPE, Counted, Decoy, Peak, at_distances, keys, zeros
from torch import Tensor, nn

from casemate import L1, L2, PGD, Linf, rng
from casemate.attacks import loss_path, maximise
from casemate.attacks.pgd import ranked_class
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.losses import cross_entropy, margin
from casemate.testing import models
from casemate.threat import Threat


@pytest.mark.parametrize(
    ("threat", "attack"),
    [
        (Linf(0.1), PGD(n_steps=20)),
        (Linf(0.6), PGD(n_steps=20, loss="dlr")),
        (L2(0.5), PGD(n_steps=30, loss="margin")),
        (L2(2.0), PGD(n_steps=60)),
        (L1(2.0), PGD(n_steps=20)),
    ],
    ids=str,
)
def test_breaks_what_the_closed_form_says_can_be_broken(threat: Threat, attack: PGD) -> None:
    # The sparse l1 step moves 5% of the values at once, which wants more than two of them.
    shape = (1, 14, 14) if isinstance(threat, L1) else SHAPE
    x = models.images(200, shape)
    model = models.Linear(shape)
    gain = model.gain(x, threat)
    # As many images within reach of the boundary as beyond it, for a box that is met and logits of ordinary size.
    ahead = -margin(model(x), zeros(200)).double()
    bias = float((gain - ahead).median())
    model = models.Linear(shape, bias=bias, scale=5 / float(gain.max()))
    ahead = ahead + bias
    x_adv = attack(model, x, zeros(200), threat, keys=keys(200))
    broken = margin(model(x_adv), zeros(200)) > 0
    assert threat.contains(x_adv, x).all()
    assert broken[ahead < 0.95 * gain].all()
    assert not broken[ahead > gain + 1e-4].any()
    assert (ahead < 0.95 * gain).sum() > 30
    assert (ahead > gain + 1e-4).sum() > 30


@pytest.mark.usefixtures("_in_eights")
def test_cost_is_that_of_the_images_that_resist() -> None:
    linear = models.Linear(SHAPE)
    distances = torch.cat([torch.full((900,), 0.005), torch.full((100,), 0.3)])
    order = torch.randperm(1000)
    x = at_distances(linear, distances)[order]
    counted = Counted(linear)
    x_adv = PGD(n_steps=40)(Engine(counted, batch_size=256), x, zeros(1000), Linf(0.1), keys=keys(1000))
    assert int((margin(linear(x_adv), zeros(1000)) > 0).sum()) == 900
    alone = Counted(linear)
    sturdy = (distances == 0.3)[order]
    PGD(n_steps=40)(Engine(alone, batch_size=256), x[sturdy], zeros(100), Linf(0.1), keys=keys(1000)[sturdy])
    assert alone.counts["gradients"] == 40 * 104, "100 images, padded to whole multiples of 8"
    # Nine images in ten leave after one gradient or two; without that it would be 40,000 gradients.
    assert counted.counts["gradients"] < alone.counts["gradients"] + 900 * 3
    # The clean images, the 900 candidates, and the last point of those that are left, each padded.
    assert counted.counts["verdicts"] < 1000 + 900 + 100 + 300


def test_images_that_are_wrong_already_cost_one_forward_pass_and_no_gradient() -> None:
    counted = Counted(models.Linear(SHAPE))
    x = at_distances(counted.model, torch.full((16,), -0.1))
    for threat in (Linf(0.1), L2(1.0), L1(5.0)):
        counted.counts.update(gradients=0, verdicts=0)
        x_adv = PGD()(Engine(counted, batch_size=16), x, zeros(16), threat, keys=keys(16))
        assert torch.equal(x_adv, x)
        assert x_adv.data_ptr() != x.data_ptr()
        assert counted.counts == {"gradients": 0, "verdicts": 16}


def test_best_point_of_the_path_is_returned_and_not_the_last() -> None:
    x = torch.full((1, *SHAPE), 0.5)
    # Grey levels 0.50, 0.54, 0.50: the best of them is the second.
    attack = PGD(n_steps=2, step_size=0.04, loss="margin", random_start=False)
    x_adv = attack(Peak(), x, zeros(1), Linf(0.1), keys=keys(1))
    assert torch.allclose(x_adv, torch.tensor(0.54))
    last = maximise(
        Engine(Peak()), x, zeros(1), Linf(0.1), keys=keys(1), start=x, n_steps=2, step_size=0.04, loss=margin
    )
    assert torch.allclose(last, torch.tensor(0.50))


def test_clean_image_is_returned_where_nothing_is_better() -> None:
    x = torch.full((1, *SHAPE), 0.53)
    assert torch.equal(PGD(n_steps=5)(Peak(), x, zeros(1), Linf(0.1), keys=keys(1)), x)


class Wavering(nn.Module):
    """Right in float32; in bfloat16 it gets every image wrong."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x.float())
        return logits if x.dtype == torch.float32 else logits.roll(1, dims=1)


def test_what_only_the_low_precision_search_believes_is_not_reported() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.full((8,), 0.3))
    engine = Engine(Wavering(linear), precision="bfloat16")
    x_adv = PGD(n_steps=5)(engine, x, zeros(8), Linf(0.1), keys=keys(8))
    assert engine.search_precision == "bfloat16"
    assert (margin(linear(x_adv), zeros(8)) <= 0).all()
    assert Linf(0.1).contains(x_adv, x).all()
    # And of all the points that were tried for nothing the best by float32 is kept.
    assert (margin(linear(x_adv), zeros(8)) >= margin(linear(x), zeros(8))).all()


def test_search_in_bfloat16_breaks_what_float32_breaks() -> None:
    model = models.seeded(lambda: models.Modal(SHAPE))
    x = models.images(64, SHAPE)
    y = model(x).argmax(dim=1)
    exact, low = (
        PGD(n_steps=10)(Engine(model, precision=precision), x, y, Linf(0.1), keys=keys(64))
        for precision in ("float32", "bfloat16")
    )
    broken = margin(model(exact), y) > 0
    assert 20 < int(broken.sum()) < 64
    assert int((broken != (margin(model(low), y) > 0)).sum()) <= 2


def test_targets_ask_for_those_very_classes() -> None:
    model = models.seeded(lambda: models.Rippled(SHAPE))
    x = models.images(40, SHAPE)
    y = model(x).argmax(dim=1)
    targets = (y + 1) % models.N_CLASSES
    for loss in ("cross-entropy", "margin", "dlr"):
        attack = PGD(n_steps=20, loss=loss)
        x_adv = attack(model, x, y, Linf(0.1), keys=keys(40), targets=targets)
        assert (model(x_adv).argmax(dim=1) == targets).float().mean() > 0.8
    # Where the target is the prediction already there is nothing to do.
    assert torch.equal(PGD(n_steps=2)(model, x, y, Linf(0.1), keys=keys(40), targets=y), x)


def test_a_target_that_is_no_class_is_refused() -> None:
    x = models.images(4, SHAPE)
    with pytest.raises(CasemateError, match=f"labels must be 0 to {models.N_CLASSES - 1}"):
        PGD(n_steps=2)(models.Rippled(SHAPE), x, zeros(4), Linf(0.1), keys=keys(4), targets=zeros(4) + models.N_CLASSES)


def test_targets_are_not_satisfied_by_another_wrong_class() -> None:
    x = torch.full((4, *SHAPE), 0.5)
    found = PGD(n_steps=10, loss="margin")(Decoy(), x, zeros(4), Linf(0.1), keys=keys(4), targets=zeros(4) + 1)
    assert (Decoy()(found).argmax(dim=1) != 1).all()
    found = PGD(n_steps=10, loss="margin")(Decoy(), x, zeros(4), Linf(0.1), keys=keys(4), targets=zeros(4) + 2)
    assert (Decoy()(found).argmax(dim=1) == 2).all()


def test_target_rank_names_the_wrong_classes_in_order() -> None:
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0], [0.0, 4.0, 4.0, 9.0]])
    y = torch.tensor([0, 3])
    assert [ranked_class(logits, y, rank).tolist() for rank in (1, 2, 3, 9)] == [[2, 1], [3, 2], [1, 0], [1, 0]]


def test_target_rank_reaches_a_class_that_the_best_wrong_one_hides() -> None:
    x = torch.full((4, *SHAPE), 0.5)
    for rank, breaks in ((1, False), (2, True)):
        attack = PGD(n_steps=10, loss="margin", random_start=False, target_rank=rank)
        x_adv = attack(Decoy(), x, zeros(4), Linf(0.1), keys=keys(4))
        assert bool((Decoy()(x_adv).argmax(dim=1) == 2).all()) == breaks


def test_flat_spot_is_left_in_a_random_direction() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            grey = (x - 0.5).abs().amax(dim=(1, 2, 3)).relu()
            return torch.stack([0 * grey, (grey - 0.05).relu() - 0.1], dim=1)

    recorded = models.Recorded(Flat())
    x = torch.full((2, *SHAPE), 0.5)
    PGD(n_steps=2, random_start=False, loss="margin")(
        Engine(recorded, precision="float32"), x, zeros(2), L2(0.5), keys=keys(2)
    )
    tried = torch.cat([seen[:2] for seen in recorded.seen if not torch.equal(seen[:1], x[:1])])
    assert len(tried) >= 2
    assert not torch.equal(tried[0], tried[1]), "each image has a direction of its own"


def test_loss_path_has_the_loss_at_every_point() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.tensor([0.05, 0.2, 0.3]))
    attack = PGD(n_steps=7, random_start=False)
    path = loss_path(linear, x, zeros(3), Linf(0.1), keys=keys(3), attack=attack)
    assert path.shape == (8, 3)
    assert torch.allclose(path[0], cross_entropy(linear(x), zeros(3)), atol=1e-5)
    # Steps of 2.5 eps / 7 reach the corner of the ball, the maximum of a linear loss, at the third.
    assert (path.diff(dim=0) >= -1e-5).all()
    corner = cross_entropy(linear(x + 0.1 * linear.weight.sign()), zeros(3))
    assert torch.allclose(path[3:], corner.expand(5, 3), atol=1e-3)
    with_start = loss_path(linear, x, zeros(3), Linf(0.1), keys=keys(3), attack=PGD(n_steps=2))
    start = Linf(0.1).sample(x, rng.fold(keys(3), "start"))
    assert torch.allclose(with_start[0], cross_entropy(linear(start), zeros(3)), atol=1e-5)


def test_maximise_works_on_every_image_broken_or_not() -> None:
    linear = models.Linear(SHAPE)
    x = at_distances(linear, torch.tensor([-0.2, 0.05, 0.3]))
    seen: list[tuple[int, Tensor]] = []
    x_adv = maximise(
        Engine(linear), x, zeros(3), Linf(0.1), keys=keys(3), start=x, n_steps=4, step_size=0.05,
        loss=cross_entropy, observe=lambda step, values: seen.append((step, values)),
    )  # fmt: skip
    assert torch.allclose(x_adv, x + 0.1 * linear.weight.sign(), atol=1e-6)
    assert [step for step, _ in seen] == [0, 1, 2, 3, 4]
    assert torch.allclose(seen[-1][1], cross_entropy(linear(x_adv), zeros(3)), atol=1e-5)


def test_keys_decide_the_start() -> None:
    model = models.seeded(lambda: models.Rippled(SHAPE, ahead=20))
    x = models.images(4, SHAPE)
    first, again, other = (PGD(n_steps=1)(model, x, zeros(4), L2(0.5), keys=keys(4, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_default_step_size() -> None:
    assert PGD(n_steps=40).step_size_for(Linf(0.3)) == pytest.approx(0.01875)
    assert PGD(n_steps=40, step_size=0.01).step_size_for(Linf(0.3)) == 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "PGD needs at least 1 step, not 0"),
        ({"step_size": 0.0}, "the step size of PGD must be positive, not 0.0"),
        ({"step_size": -0.01}, "must be positive"),
        ({"step_size": math.nan}, "must be positive"),
        ({"target_rank": 0}, "target_rank counts wrong classes from 1"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(CasemateError, match=message):
        PGD(**settings)  # type: ignore[arg-type]


def test_dlr_on_two_classes_is_refused_before_the_first_step() -> None:
    with pytest.raises(CasemateError, match="at least 3 classes"):
        PGD(loss="dlr")(Peak(), torch.full((1, *SHAPE), 0.5), zeros(1), Linf(0.1), keys=keys(1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x * 255, y), r"scale images to \[0, 1\]"),
        (lambda x, y: (x, y + 4), "image 0 has label 4; labels must be 0 to 3"),
        (lambda x, y: (x, y - 1), "image 0 has label -1"),
        (lambda x, y: (x * torch.nan, y), "NaN"),
    ],
)
def test_batch_that_is_none_is_refused(spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    x, y = spoil(models.images(3, SHAPE), zeros(3))
    with pytest.raises(CasemateError, match=message):
        PGD(n_steps=1)(models.Linear(SHAPE), x, y, Linf(0.1), keys=keys(3))


class NotANumberInBfloat16(nn.Module):
    """Class 0 while the mean is below 0.5; its search in bfloat16 sees nothing but NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        grey = x.flatten(1).mean(dim=1) * self.weight
        if grey.dtype == torch.bfloat16:
            grey = grey * torch.nan
        return torch.stack([0.5 - grey, grey - 0.5], dim=1).float()


def test_an_image_on_which_the_search_finds_nan_is_judged_all_the_same() -> None:
    # Each start is beyond the boundary for about half the images, so the exact pass at the end breaks some.
    x = torch.full((64, *SHAPE), 0.5) - 1e-4
    attack = PGD(n_steps=3)
    x_adv = attack(Engine(NotANumberInBfloat16(), precision="bfloat16"), x, zeros(64), Linf(0.2), keys=keys(64))
    assert (NotANumberInBfloat16()(x_adv).argmax(dim=1) == 1).any()
