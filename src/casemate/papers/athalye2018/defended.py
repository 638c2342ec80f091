"""The defences of table 1 on MNIST: each classifier, how an evaluation that misses the point attacks it, and ours."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from casemate import data
from casemate.audit.presets import Preset, quick, standard
from casemate.defences import (
    JPEG,
    BitDepth,
    DefenseGAN,
    PixelDefend,
    Quilting,
    ResizePad,
    TotalVariation,
    fit_generator,
    fit_pixel_model,
    patch_bank,
    with_activation_pruning,
)
from casemate.losses import Labels
from casemate.papers.athalye2018 import published
from casemate.papers.athalye2018.published import Published
from casemate.papers.item import Run
from casemate.papers.networks import Network, Variant
from casemate.threat import Images

N_TRAIN = 10_000

# How the first evaluation attacks: "unaware" takes the examples of the bare network, "one draw" the defence's own
# gradient at one draw, "cross-entropy" the gradient of that loss, "one step" FGSM alone.
Naive = Literal["unaware", "one draw", "cross-entropy", "one step"]


@dataclass(frozen=True, eq=False)
class Bench:
    """What the defences are built of: the undefended network, training images and their labels.

    `n_steps` is the number of training steps of the model of images and of the generator.
    """

    run: Run
    natural: Network
    images: Images
    labels: Labels
    n_steps: tuple[int, int] = (300, 1000)

    @property
    def bare(self) -> nn.Module:
        return self.natural.model

    def before(self, defence: nn.Module) -> nn.Module:
        return nn.Sequential(defence, self.bare).eval()


@dataclass(frozen=True, eq=False)
class Defence:
    """A line of the table. In the small setting it is attacked on the first `n_images`; `draws` are the engine's.

    `preset` is how hard the audit tries: `quick` where an answer of the defence is dear.
    """

    name: str
    build: Callable[[Bench], nn.Module]
    naive: Naive
    published: Published
    n_images: int = 50
    draws: int | None = None
    preset: Preset = standard


def bench(run: Run, *, n_train: int = N_TRAIN) -> Bench:
    natural = run.network("mnist-natural")
    train = data.load(natural.recipe.data, "train", limit=n_train)
    return Bench(run, natural, train.images, train.labels)


def second(bench: Bench, name: str) -> nn.Module:
    """The network that a first one of the same recipe teaches, or cascades into."""
    first = bench.run.network(name)
    return bench.run.network(Variant(name, earlier=str(first.folder))).model


def _pixel_defend(bench: Bench) -> nn.Module:
    model = fit_pixel_model(bench.images, n_steps=bench.n_steps[0], seed=bench.run.seed)
    # Twice the default, which is for CIFAR-10: digits have more contrast.
    return bench.before(PixelDefend(model, eps=32 / 255))


def _defense_gan(bench: Bench) -> nn.Module:
    return bench.before(DefenseGAN(fit_generator(bench.images, n_steps=bench.n_steps[1], seed=bench.run.seed)))


DEFENCES = (
    Defence("Thermometer", lambda b: b.run.network("mnist-thermometer").model, "unaware", published.THERMOMETER),
    Defence("Bit depth", lambda b: b.before(BitDepth()), "unaware", published.TRANSFORMATIONS),
    Defence("JPEG", lambda b: b.before(JPEG()), "unaware", published.TRANSFORMATIONS),
    Defence(
        "Total variation",
        lambda b: b.before(TotalVariation()),
        "unaware",
        published.TRANSFORMATIONS,
        preset=quick,
    ),
    Defence(
        "Quilting",
        lambda b: b.before(Quilting(patch_bank(b.images, 10_000))),
        "unaware",
        published.TRANSFORMATIONS,
        n_images=20,
        preset=quick,
    ),
    Defence("Activation pruning", lambda b: with_activation_pruning(b.bare), "one draw", published.PRUNING),
    Defence("Resize and pad", lambda b: b.before(ResizePad()), "one draw", published.RESIZING),
    Defence("PixelDefend", _pixel_defend, "unaware", published.PIXEL_DEFEND, preset=quick),
    Defence("Defense-GAN", _defense_gan, "unaware", published.DEFENSE_GAN, n_images=10, draws=2, preset=quick),
    Defence("PGD training", lambda b: b.run.network("mnist-pgd").model, "cross-entropy", published.MADRY),
    Defence("Cascade training", lambda b: second(b, "mnist-cascade"), "one step", published.CASCADE),
    Defence("Distillation", lambda b: second(b, "mnist-distilled"), "cross-entropy", published.DISTILLATION),
)
