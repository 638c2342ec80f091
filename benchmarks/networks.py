"""The networks the attacks are timed on, all of them Madry's network A (casemate.models, scale 16)."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casemate import checkpoint, data, models
from casemate.errors import CasemateError

# Enough for about 98% and 65% of the test images.
NATURAL_STEPS = {"mnist": 400, "cifar10": 1500}


def network_a(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("madry-mnist", scale=16, init="pytorch")


def opened(folder: Path, seed: int) -> nn.Module:
    """The checkpoint in `folder`, a Madry MNIST network, at the size of network A.

    A narrower one is filled up with random units that nothing reads: its answers stay the same, and each pass costs
    what it costs on network A.
    """
    model, card = checkpoint.load(folder)
    if card["architecture"] != "madry-mnist" or card["arguments"].get("scale", 16) > 16:
        raise CasemateError(f"{folder} does not fit into Madry's network A: name a checkpoint of madry-mnist")
    whole = network_a(seed).eval()
    with torch.no_grad():
        for mine, theirs in zip(whole.parameters(), model.parameters(), strict=True):
            if mine.dim() > 1:
                mine[: theirs.shape[0], theirs.shape[1] :] = 0
                mine[: theirs.shape[0], : theirs.shape[1]] = theirs
            else:
                mine[: len(theirs)] = theirs
    return whole


def natural(name: str, seed: int, batch_size: int = 100) -> nn.Module:
    """Network A's layers after some natural steps on the data called `name`; it breaks within a few PGD steps."""
    torch.manual_seed(seed)
    dataset = data.load(name, "train")
    _, in_channels, size, _ = dataset.images.shape
    model = models.build("madry-mnist", scale=16, in_channels=in_channels, size=size, init="pytorch")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    for number in range(NATURAL_STEPS[name]):
        at = order[number * batch_size % len(order) :][:batch_size]
        loss = F.cross_entropy(model(dataset.images[at]), dataset.labels[at])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def unbreakable(seed: int, x: Tensor) -> tuple[nn.Module, Tensor]:
    """A random network A that calls every image class 0, with these labels: no image leaves the search early.

    Its logits differ by about 0.1 where the bias of class 0 is raised by 10, and its gradients are still far from 0.
    """
    model = network_a(seed).eval()
    with torch.no_grad():
        model.get_parameter("fc2.bias")[0] += 10
    return model, torch.zeros(len(x), dtype=torch.int64)
