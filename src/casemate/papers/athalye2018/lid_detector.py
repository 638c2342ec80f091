"""The detector of table 1: adversarial images count as stopped where it flags them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from casemate import rng
from casemate.attacks import CarliniWagner, maximise
from casemate.defences import LID
from casemate.gradients import Engine
from casemate.losses import Labels, margin
from casemate.papers.athalye2018.defended import Bench
from casemate.papers.evaluation import Evaluation
from casemate.threat import L2, Images

LAYERS = ("relu1", "relu2", "relu3", "fc2")
# A minibatch of the paper, images to fit on, and others for the threshold, from the training images.
N_REFERENCE, N_FIT, N_HELD_OUT = 100, 200, 500
FALSE_POSITIVES = 0.05
# The near adversarial images of Carlini and Wagner, by fewer searches than the paper's 9 of 1,000 steps.
NEAR = CarliniWagner(n_steps=100, n_search_steps=4, learning_rate=0.05, first_c=1.0)


@dataclass(frozen=True, eq=False)
class Detected:
    """Of each image [N], whether it is right, or wrong and flagged: clean, after CW in l2, after confident PGD."""

    clean: Bool[Tensor, "batch"]
    naive: Bool[Tensor, "batch"]
    adaptive: Bool[Tensor, "batch"]


def detected(bench: Bench, judged: Evaluation) -> Detected:
    """The paper's detector on the natural network, fitted to near images; then near ones, and confident ones.

    A clean image that is flagged is lost, as one that is misclassified, and stays lost. The confident attack is 100
    signed steps up the margin of the bare classifier inside the threat model, which never stops and knows nothing of
    the detector.
    """
    engine = Engine(bench.bare, precision="float32")
    ends = (N_REFERENCE, N_REFERENCE + N_FIT, N_REFERENCE + N_FIT + N_HELD_OUT)
    reference, fitting, held_out = (bench.images[start:end] for start, end in zip((0, *ends), ends, strict=False))
    detector = LID(bench.bare, LAYERS, reference)
    adversarial = _near(engine, fitting, bench.labels[ends[0] : ends[1]], judged.seed)
    distance = (adversarial - fitting).flatten(1).norm(dim=1)
    noise = rng.normal(rng.fold(_keys(fitting, judged.seed), "noise"), fitting.shape[1:])
    noise = noise * (distance / noise.flatten(1).norm(dim=1))[:, None, None, None]
    detector.fit(fitting, (fitting + noise).clamp(0, 1), adversarial)
    with torch.no_grad():
        threshold = detector.score(held_out).quantile(1 - FALSE_POSITIVES)

    def stopped(x: Images) -> Bool[Tensor, "batch"]:
        right = engine.logits(x).argmax(dim=1) == judged.y
        with torch.no_grad():
            return right | (detector.score(x) > threshold)

    x, y = judged.x, judged.y
    clean = engine.logits(x).argmax(dim=1) == y
    confident = maximise(
        engine,
        x,
        y,
        judged.threat,
        keys=_keys(x, judged.seed),
        start=x,
        n_steps=100,
        step_size=judged.threat.eps / 25,
        loss=margin,
    )
    with torch.no_grad():
        clean &= detector.score(x) <= threshold
    near = _near(engine, x, y, judged.seed)
    return Detected(clean, clean & stopped(near), clean & stopped(confident))


def _near(engine: Engine, x: Images, y: Labels, seed: int) -> Images:
    """The nearest adversarial images in l2, at any distance."""
    return NEAR.nearest(engine, x, y, L2(28.0), keys=_keys(x, seed)).x_adv


def _keys(x: Images, seed: int) -> rng.Keys:
    return rng.image_keys(seed, torch.arange(len(x)))
