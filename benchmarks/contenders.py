"""PGD of each library behind one signature, images and labels to adversarial images, set up the way its manual shows.

A peer's import and its wrapper around the model are outside what is timed; its conversions of images are inside.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from casemate import PGD, Linf, rng
from casemate.errors import CasemateError

Attack = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Search:
    """The inner search all contenders run: sign steps in an linf ball, from a uniformly random start."""

    eps: float = 0.3
    step_size: float = 0.01
    n_steps: int = 40


def casemate(model: nn.Module, search: Search, *, seed: int = 0) -> Attack:
    attack, threat = PGD(search.n_steps, search.step_size), Linf(search.eps)

    def run(x: Tensor, y: Tensor) -> Tensor:
        return attack(model, x, y, threat, keys=rng.image_keys(seed, torch.arange(len(x))))

    return run


def bare(model: nn.Module, search: Search) -> Attack:
    """The unit: as many gradients of the summed cross-entropy as the search takes, and nothing else."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        for _ in range(search.n_steps):
            leaf = x.detach().requires_grad_(True)
            torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        return x

    return run


def torchattacks(model: nn.Module, search: Search) -> Attack:
    library = imported("torchattacks", "torchattacks")
    return library.PGD(model, eps=search.eps, alpha=search.step_size, steps=search.n_steps, random_start=True)


def foolbox(model: nn.Module, search: Search) -> Attack:
    library = imported("foolbox", "foolbox")
    wrapped = library.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = library.attacks.LinfPGD(abs_stepsize=search.step_size, steps=search.n_steps, random_start=True)
    # `run` leaves out the check of success that calling the attack adds, one forward pass.
    return lambda x, y: attack.run(wrapped, x, y, epsilon=search.eps)


def cleverhans(model: nn.Module, search: Search) -> Attack:
    library = imported("cleverhans.torch.attacks.projected_gradient_descent", "cleverhans")

    def run(x: Tensor, y: Tensor) -> Tensor:
        return library.projected_gradient_descent(
            model, x, search.eps, search.step_size, search.n_steps, float("inf"), clip_min=0.0, clip_max=1.0, y=y
        ).detach()

    return run


def art(model: nn.Module, search: Search) -> Attack:
    library = imported("art.attacks.evasion", "adversarial-robustness-toolbox")
    wrapped = art_classifier(model)

    def run(x: Tensor, y: Tensor) -> Tensor:
        attack = library.ProjectedGradientDescentPyTorch(
            wrapped,
            eps=search.eps,
            eps_step=search.step_size,
            max_iter=search.n_steps,
            num_random_init=1,
            batch_size=len(x),
            verbose=False,
        )
        return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))

    return run


def art_classifier(model: nn.Module, optimiser: torch.optim.Optimizer | None = None) -> object:
    """`model` as ART wants it, for MNIST."""
    library = imported("art.estimators.classification", "adversarial-robustness-toolbox")
    return library.PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=optimiser,
        input_shape=(1, 28, 28),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def art_trainer(model: nn.Module, search: Search, *, lr: float, batch_size: int) -> Any:
    """ART's trainer by the protocol of Madry et al. (2018): `search` on whole batches, Adam at a constant rate."""
    library = imported("art.defences.trainer", "adversarial-robustness-toolbox")
    trainer = library.AdversarialTrainerMadryPGD(
        art_classifier(model, torch.optim.Adam(model.parameters(), lr=lr)),
        batch_size=batch_size,
        eps=search.eps,
        eps_step=search.step_size,
        max_iter=search.n_steps,
    )
    # Its search splits the batch into batches of 32 unless told not to, which is slower.
    trainer.attack.set_params(batch_size=batch_size, verbose=False)
    return trainer


def in_batches(attack: Attack, size: int) -> Attack:
    """`attack` handed `size` images at a time."""
    return lambda x, y: torch.cat([attack(*part) for part in zip(x.split(size), y.split(size), strict=True)])


PEERS: dict[str, Callable[[nn.Module, Search], Attack]] = {
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "cleverhans": cleverhans,
    "art": art,
}


def refuse_missing() -> None:
    """Raises `CasemateError` for the first peer that cannot be imported, before anything is computed."""
    for peer in PEERS.values():
        peer(nn.Linear(784, 10).eval(), Search())


def imported(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CasemateError(
            f"{package} cannot be imported ({error}): run `make bench`, which installs the libraries to compare with"
        ) from None
