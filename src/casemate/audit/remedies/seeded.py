"""The remedy for randomness that a classifier does not declare (G10)."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from casemate import rng
from casemate.audit.remedies.random_operations import DrawsByImage, NotByImage
from casemate.gradients import evaluating
from casemate.losses import Logits
from casemate.threat import Images

# As in `symptoms.answers`, the share of their norm by which two answers may differ and still be the same.
SAME = 1e-4


class Seeded(nn.Module):
    """A classifier that draws from the generators of torch, numpy or Python, made one that draws from image keys.

    Its answer to an image is fixed by the image's key, whatever the batch, so that verdicts can be replayed and attacks
    average over draws (EOT; Athalye et al. 2018, section 4.2). Where each of its random operations has a row for each
    image, the rows are drawn from the keys. Otherwise, `one_by_one`, each image goes through by itself after the
    generators were seeded from its key, which costs what batches of one cost. Called without keys it answers as the
    classifier does. The generators are left as they were.
    """

    stochastic = True

    def __init__(self, model: nn.Module, *, one_by_one: bool) -> None:
        super().__init__()
        self.model, self.one_by_one = model, one_by_one

    def forward(self, x: Images) -> Logits:
        if rng.ambient_keys(x) is None:
            answer: Tensor = self.model(x)
            return answer
        keys = rng.layer_keys(x, "seeded")
        with _generators_restored(x.device):
            if self.one_by_one:
                seeds = keys.tolist()
                return torch.cat([self._drawn(image, seed) for image, seed in zip(x.split(1), seeds, strict=True)])
            with DrawsByImage(keys):
                answer = self.model(x)
        return answer

    def _drawn(self, image: Images, seed: int) -> Logits:
        torch.manual_seed(seed)
        # numpy takes 32 bits.
        np.random.seed(seed % 2**32)
        random.seed(seed)
        answer: Tensor = self.model(image)
        return answer


def seeded(model: nn.Module, x: Images) -> Seeded:
    """`model` with its draws from keys: in batches where the images x, at least 2, get the same answers alone."""
    by_row = Seeded(model, one_by_one=False)
    keys = rng.image_keys(0, torch.arange(len(x), device=x.device))

    def answer(at: slice, seed: int) -> Logits:
        # Other draws of numpy and Python each time, so that an answer which rests on them is not the same twice.
        np.random.seed(seed)
        random.seed(seed)
        with rng.drawing_from(keys[at]):
            return by_row(x[at].clone())

    with evaluating(model), torch.no_grad(), _generators_restored(x.device):
        try:
            together = answer(slice(None), len(x))
            alone = torch.cat([answer(slice(place, place + 1), place) for place in range(len(x))])
        except NotByImage:
            return Seeded(model, one_by_one=True)
    same = len(x) > 1 and bool((together - alone).norm() <= SAME * together.norm())
    return Seeded(model, one_by_one=not same)


@contextmanager
def _generators_restored(device: torch.device) -> Iterator[None]:
    numpys, pythons = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)
