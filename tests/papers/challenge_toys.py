"""The two challenges on a handful of images, and data and networks for them."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from casemate.data import Dataset
from casemate.papers.madry2018.challenge import CIFAR10, MNIST, Challenge

TINY_MNIST = replace(MNIST, n_images=9)
TINY_CIFAR10 = replace(CIFAR10, n_images=5)
TINY = (TINY_MNIST, TINY_CIFAR10)


def dataset(challenge: Challenge, seed: int = 0) -> Dataset:
    """Images of bytes, a third of the values 0 and a third 255, labelled by `network` but for the last one."""
    generator = np.random.default_rng(seed)
    shape = (challenge.n_images, *challenge.image)
    pixels = generator.choice([0, 1, 2], shape) * 127.5
    pixels = np.where(pixels == 127.5, generator.integers(0, 256, shape), pixels).astype(np.uint8)
    images = torch.from_numpy(pixels).float() / 255
    with torch.no_grad():
        labels = network(challenge)(images).argmax(dim=1)
    labels[-1] = (labels[-1] + 1) % 10
    return Dataset(challenge.data, "test", images, labels, tuple("0123456789"))


def network(challenge: Challenge) -> nn.Module:
    torch.manual_seed(3)
    layer = nn.Linear(int(np.prod(challenge.image)), 10)
    with torch.no_grad():
        layer.bias.copy_(-layer.weight.sum(dim=1) / 2)
    return nn.Sequential(nn.Flatten(), layer).eval()


def in_file(challenge: Challenge, x: torch.Tensor) -> np.ndarray:
    """Images as the file holds them, in float64: written out independently of the library."""
    rows = []
    for image in x.double().numpy():
        rows.append(image[0].ravel() if challenge.data == "mnist" else np.stack([*np.round(image * 255)], axis=-1))
    return np.stack(rows)
