"""Does an attack keep the promises of `casemate.attacks.Attack`?"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from casemate import rng
from casemate.attacks import Attack
from casemate.gradients import Classifier, Engine
from casemate.losses import Labels, Values, margin
from casemate.testing import models
from casemate.testing.conformance import leaving_no_trace, refusing, require, running
from casemate.threat import L1, L2, Images, Linf, Threat

THREATS: tuple[Threat, ...] = (Linf(0.1), L2(0.5), L1(2.0))
SHAPES = ((1, 5, 7), (3, 8, 8))
# Margins of one image computed in different batches or memory layouts differ by float32 rounding.
SLACK = 1e-4


def check_attack(
    attack: Attack,
    *,
    threats: Sequence[Threat] | None = None,
    device: str | torch.device = "cpu",
    breaks_linear: bool = True,
) -> None:
    """Raise `ConformanceError`, one sentence that names the first promise `attack` breaks; else return None.

    For each of `threats` (default linf:0.1, l2:0.5 and l1:2; name those the attack is made for), on small networks on
    `device`, for batches of 0 to 8 images of two shapes with a black and a white one among them:

    - the result has the shape, dtype and device of the images, carries no graph, and is inside the threat model;
    - misclassified images come back as they are; no other comes back less wrong than it came, or less wrong than a
      point of the threat model at which the attack itself has asked the classifier;
    - an image has the same result when called again, in another order, among other images and alone: the same verdict,
      and at most 2% of its pixel values differ by more than 1e-5, which leaves room for the kernels of accelerators;
      so too when a layer of the classifier is stochastic;
    - the classifier (weights, buffers, training mode, requires_grad, .grad, hooks, attributes), the arguments and the
      global random states are as they were before;
    - it takes an `Engine` in the place of a classifier, as `Restarts` and `Worst` pass one on;
    - NaN logits, images outside [0, 1] and labels without a class are refused with a `ValueError` and a message, and so
      are, where the attack is a dataclass, a field `n_...` of 0, a negative `step_size` and an unknown `loss`;
    - with `breaks_linear`, on a linear classifier it breaks every image whose distance to the boundary inside the box,
      known in closed form, is below eps / 2 (for `Linf`, `L2` and `L1`). Switch this off for an attack that does not
      follow the gradient of the classifier.

    Cost: about 35 calls of the attack for each threat model.
    """
    for threat in THREATS if threats is None else threats:
        for image_shape in SHAPES:
            rippled = models.seeded(lambda shape=image_shape: models.Rippled(shape))  # type: ignore[misc]
            _check_result(_Bench(attack, threat, rippled, image_shape, device))
        sturdy = models.seeded(lambda: models.Rippled(SHAPES[0], ahead=20))
        _check_best(_Bench(attack, threat, sturdy, SHAPES[0], device))
        modal = models.seeded(lambda: models.Modal(SHAPES[0]))
        _check_traces(_Bench(attack, threat, modal, SHAPES[0], device))
        noisy = nn.Sequential(models.Noisy(), models.seeded(lambda: models.Rippled(SHAPES[0])))
        _check_stochastic(_Bench(attack, threat, noisy, SHAPES[0], device))
        if breaks_linear:
            for image_shape in SHAPES:
                _check_linear(attack, threat, image_shape, device)
        _check_refusals(_Bench(attack, threat, rippled, SHAPES[1], device))


class _Bench:
    """An attack and eight images, of which the classifier gets two wrong, with all that a call needs."""

    def __init__(
        self, attack: Attack, threat: Threat, model: nn.Module, image_shape: models.Shape, device: str | torch.device
    ) -> None:
        self.attack, self.threat, self.model = attack, threat, model.to(device)
        self.who = _name(attack, threat)
        self.engine = Engine(self.model, precision="float32")
        self.x = models.images(8, image_shape).to(device)
        self.x[0], self.x[1] = 0, 1
        self.keys = rng.image_keys(1, torch.arange(8, device=device))
        self.y = self.engine.logits(self.x, keys=self.keys).argmax(dim=1)
        self.y[6:] = (self.y[6:] + 1) % models.N_CLASSES
        self.wrong = self.margin(self.x) > 0

    def run(self, at: Tensor | slice = slice(None), *, model: Classifier | None = None, when: str = "") -> Images:
        """The attack on the images `at`; it leaves no trace, and what it returns is inside the threat model."""
        who = f"{self.who}{when}"
        x, y, keys = self.x[at], self.y[at], self.keys[at]
        with running(who), leaving_no_trace(who, self.model, x=x, y=y, keys=keys):
            x_adv = self.attack(model or self.engine, x, y, self.threat, keys=keys)
        _check_form(x_adv, x, self.threat, who)
        return x_adv

    def margin(self, x_adv: Images) -> Values:
        return margin(self.engine.logits(x_adv, keys=self.keys), self.y)

    def require_same(self, first: Images, second: Images, sentence: str) -> None:
        verdicts = torch.equal(self.margin(first) > 0, self.margin(second) > 0)
        differ = ((first - second).abs() > 1e-5).flatten(1).float().mean(dim=1)
        require(verdicts and bool((differ <= 0.02).all()), f"{self.who} gave another result {sentence}")


def _check_result(bench: _Bench) -> None:
    x, who = bench.x, bench.who
    x_adv = bench.run()
    kept = torch.equal(x_adv[bench.wrong], x[bench.wrong])
    require(kept, f"{who} changed an image that was misclassified as it was")
    worse = bench.margin(x_adv) < bench.margin(x) - SLACK
    require(not worse.any(), f"{who} returned an image that is less wrong than the one it was given")

    bench.require_same(x_adv, bench.run(), "when it was called again")
    order = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4], device=x.device)
    shuffled = torch.empty_like(x).index_copy_(0, order, bench.run(order))
    bench.require_same(x_adv, shuffled, "when the batch was in another order")
    parts = torch.cat([bench.run(slice(0, 3)), bench.run(slice(3, 8))])
    bench.require_same(x_adv, parts, "when the batch was split in two")
    alone = x_adv.clone()
    alone[4:5] = _run_recorded(bench, 4)
    bench.require_same(x_adv, alone, "for an image alone in its batch")
    bench.run(slice(0, 0), when=", given an empty batch,")


def _check_best(bench: _Bench) -> None:
    """On a classifier too sturdy to be broken, where most of a path is not its best point."""
    parts = [_run_recorded(bench, image) for image in range(4)]
    bench.require_same(bench.run(), torch.cat([*parts, bench.run(slice(4, 8))]), "for an image alone in its batch")


def _run_recorded(bench: _Bench, image: int) -> Images:
    """Attack one image alone, so that each question to the classifier is about it, and compare with the answers."""
    recorded = models.Recorded(bench.model)
    at = slice(image, image + 1)
    x, y = bench.x[at], bench.y[at]
    x_adv = bench.run(at, model=Engine(recorded, precision="float32"))
    require(bool(recorded.seen), f"{bench.who} never asked the classifier, so it cannot know what breaks it")
    asked = torch.cat([seen for seen in recorded.seen if seen.shape[1:] == x.shape[1:]])
    asked = asked[bench.threat.contains(asked, x.expand_as(asked))]
    best = float(margin(bench.engine.logits(asked), y.expand(len(asked))).max())
    found = float(margin(bench.engine.logits(x_adv), y))
    if best > SLACK:
        require(found > 0, f"{bench.who} met an adversarial image and returned one that is classified right")
    else:
        sentence = f"{bench.who} met an image of margin loss {best:.4g} and returned one of {found:.4g}: keep the best"
        require(found >= best - SLACK, sentence)
    return x_adv


def _check_form(x_adv: object, x: Images, threat: Threat, who: str) -> None:
    if not isinstance(x_adv, Tensor):
        require(False, f"{who} returned a {type(x_adv).__name__}, not a tensor of images")
        return
    require(x_adv.shape == x.shape, f"{who} returned shape {list(x_adv.shape)} for images {list(x.shape)}")
    require(x_adv.dtype == x.dtype, f"{who} returned {x_adv.dtype} for images of {x.dtype}")
    require(x_adv.device == x.device, f"{who} returned images on {x_adv.device} for images on {x.device}")
    require(not x_adv.requires_grad, f"{who} returned images that still carry a graph")
    inside = threat.contains(x_adv, x)
    if not inside.all():
        image = int((~inside).nonzero()[0])
        distance = float(threat.measure(x_adv, x)[image])
        low, high = float(x_adv[image].min()), float(x_adv[image].max())
        require(False, f"{who} left the threat model: distance {distance:.7g}, pixel values {low:.7g} to {high:.7g}")


def _check_traces(bench: _Bench) -> None:
    """On the bare classifier, in a state as mixed as that of one in the middle of its training."""
    bench.model.train()
    bench.model.get_submodule("body.3").eval()
    next(bench.model.parameters()).requires_grad_(False)
    bench.run(model=bench.model)


def _check_stochastic(bench: _Bench) -> None:
    bench.run(model=bench.model, when=", on a stochastic classifier,")
    parts = torch.cat([bench.run(slice(0, 3)), bench.run(slice(3, 8))])
    bench.require_same(bench.run(), parts, "on a stochastic classifier when the batch was split in two")


def _check_linear(attack: Attack, threat: Threat, image_shape: models.Shape, device: str | torch.device) -> None:
    if not isinstance(threat, (Linf, L2, L1)):
        return
    x = (0.3 + 0.4 * models.images(8, image_shape, seed=2)).to(device)
    gain = models.Linear(image_shape).to(device).gain(x, type(threat)(threat.eps / 2))
    # Most images are then a little closer than eps / 2 to the boundary, with logits of ordinary size.
    model = models.Linear(image_shape, bias=0.7 * float(gain.min()), scale=4 / float(gain.min())).to(device)
    y: Labels = torch.zeros(8, dtype=torch.int64, device=device)
    close = -margin(model(x), y) < model.scale * gain
    with running(_name(attack, threat)):
        x_adv = attack(model, x, y, threat, keys=rng.image_keys(2, torch.arange(8, device=device)))
    missed = int((close & (margin(model(x_adv), y) <= 0)).sum())
    sentence = f"missed {missed} of {int(close.sum())} images that are closer than eps / 2 to a linear boundary"
    require(missed == 0, f"{_name(attack, threat)} {sentence}")


def _check_refusals(bench: _Bench) -> None:
    attack, who, model = bench.attack, bench.who, bench.model
    x, y, threat, keys = bench.x, bench.y, bench.threat, bench.keys
    with refusing(f"{who} was given a classifier that returns NaN"):
        attack(nn.Sequential(model, models.NotFinite()), x, y, threat, keys=keys)
    with refusing(f"{who} was given images outside [0, 1]"):
        attack(model, x * 255, y, threat, keys=keys)
    with refusing(f"{who} was given labels that no class has"):
        attack(model, x, y + models.N_CLASSES, threat, keys=keys)
    if not dataclasses.is_dataclass(attack) or isinstance(attack, type):
        return
    for field in (field for field in dataclasses.fields(attack) if field.init):
        bad = 0 if field.name.startswith("n_") else {"step_size": -1.0, "loss": "no such loss"}.get(field.name)
        if bad is not None:
            with refusing(f"{who} was given {field.name}={bad!r}"):
                dataclasses.replace(attack, **{field.name: bad})(model, x, y, threat, keys=keys)


def _name(attack: Attack, threat: Threat) -> str:
    return f"{getattr(attack, '__name__', repr(attack))} at {threat}"
