"""A paper's networks in a few seconds: recipes on the embedded digits, under the names the items ask for."""

from pathlib import Path

import torch
from torch import nn

from casemate import rng
from casemate.gradients import Engine
from casemate.papers.item import Run
from casemate.papers.madry2018 import pair as pairs
from casemate.papers.madry2018.pair import DATA_SETS, NATURAL, TRAINED, Pair
from casemate.papers.networks import Network, Networks
from casemate.threat import Images, Linf
from casemate.training import recipe as recipes

RECIPE = """
data: digits-sample
model: {{name: small-cnn, arguments: {{width: 4}}}}
objective: {objective}
threat: linf:0.1
optimiser: {{kind: adam, lr: 0.01}}
epochs: 1
batch_size: 50
hold_out: 1000
check: {{n: 20, n_steps: 1}}
"""
OBJECTIVES = {"mnist-natural": "{kind: natural}", "mnist-pgd": "{kind: adversarial, n_steps: 2}"}


def write_recipes(folder: Path) -> Path:
    """The recipes of the small and the full setting, which here are the same."""
    folder.mkdir()
    for name, objective in OBJECTIVES.items():
        for setting in ("small", "full"):
            (folder / f"{name}-{setting}.yaml").write_text(RECIPE.format(objective=objective))
    return folder


def small_run(folder: Path, seed: int = 0) -> Run:
    """A run whose networks are in `folder`/networks and its recipes in `folder`/recipes."""
    return Run("small", seed, Networks(folder / "recipes", folder / "networks", "small").open)


def opened(folder: Path, n_images: int = 2) -> tuple[Pair, Run]:
    run = small_run(folder)
    (pair,), _ = pairs.open_pairs(run, n_images)
    return pair, run


def linear(weights: torch.Tensor) -> nn.Module:
    """Two classes; the logit of class 1 less that of class 0 is <weights, x>."""
    layer = nn.Linear(weights.numel(), 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros_like(weights), weights]))
    return nn.Sequential(nn.Flatten(), layer).eval()


def pair_of(model: nn.Module, x: Images, y: torch.Tensor, eps: float) -> Pair:
    """A pair of twice the same network, which nobody trained."""
    recipe = recipes.from_dict(
        {
            "data": "digits-sample",
            "model": {"name": "small-cnn"},
            "objective": {"kind": "natural"},
            "threat": "linf:0.1",
        },
        "toy",
    )
    network = Network("toy-small", model, recipe, {}, Path("toy"), False)
    names = (NATURAL, TRAINED)
    engine = Engine(model, precision="float32")
    return Pair(
        DATA_SETS[0], Linf(eps), dict.fromkeys(names, network), dict.fromkeys(names, engine), torch.arange(len(x)), x, y
    )


def keys(n: int, seed: int = 0) -> rng.Keys:
    return rng.image_keys(seed, torch.arange(n))
