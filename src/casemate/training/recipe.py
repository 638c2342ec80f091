"""Recipes: what to train, on what, how; written as YAML, validated before anything is computed."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import nn

from casemate import checkpoint
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.threat import parse
from casemate.training import schedule
from casemate.training.adversarial import Adversarial
from casemate.training.cascade import CascadeTraining
from casemate.training.crown_ibp import CrownIBP
from casemate.training.diffai import DiffAI, read_goal
from casemate.training.distilled import Distilled
from casemate.training.fast import Fast
from casemate.training.interval import IntervalTraining
from casemate.training.mtl_ibp import MtlIBP
from casemate.training.natural import Natural
from casemate.training.objective import Ball, Objective
from casemate.training.sabr import Sabr
from casemate.training.schedule import Shape
from casemate.training.trades import Trades

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NaturalSettings(_Strict):
    """Cross-entropy on clean images."""

    kind: Literal["natural"]
    label_smoothing: Share = 0.0

    def build(self, threat: Ball) -> Objective:
        return Natural(self.label_smoothing)


class AdversarialSettings(_Strict):
    """PGD (or, with one step, FGSM) adversarial training."""

    kind: Literal["adversarial"]
    n_steps: PositiveInt = 40
    step_size: Positive | None = None
    random_start: bool = True
    warm_up: Share = 0.0
    label_smoothing: Share = 0.0
    loss: Literal["cross-entropy", "margin", "dlr"] = "cross-entropy"

    def build(self, threat: Ball) -> Objective:
        return Adversarial(threat, **self.model_dump(exclude={"kind"}))


class FastSettings(_Strict):
    """Single-step training: FGSM-RS or N-FGSM."""

    kind: Literal["fast"]
    method: Literal["rs", "n-fgsm"] = "rs"
    step_size: Positive | None = None
    warm_up: Share = 0.0
    label_smoothing: Share = 0.0

    def build(self, threat: Ball) -> Objective:
        return Fast(threat, **self.model_dump(exclude={"kind"}))


class TradesSettings(_Strict):
    """TRADES."""

    kind: Literal["trades"]
    beta: Positive = 6.0
    n_steps: PositiveInt = 10
    step_size: Positive | None = None
    warm_up: Share = 0.0
    label_smoothing: Share = 0.0

    def build(self, threat: Ball) -> Objective:
        return Trades(threat, **self.model_dump(exclude={"kind"}))


class _CertifiedSettings(_Strict):
    warm_up: Share = 0.03
    ramp: Share = 0.17
    growth: Literal["linear", "smooth"] = "linear"
    regulariser: NotNegative = 0.0
    l1: NotNegative = 0.0


class IntervalSettings(_CertifiedSettings):
    """Certified training by intervals."""

    kind: Literal["interval"]
    kappa: Share = 0.5

    def build(self, threat: Ball) -> Objective:
        return IntervalTraining(threat, **self.model_dump(exclude={"kind"}))


class CrownIBPSettings(_CertifiedSettings):
    """Certified training by linear bounds between intervals."""

    kind: Literal["crown-ibp"]
    kappa: Share = 0.0
    beta: Share = 0.0

    def build(self, threat: Ball) -> Objective:
        return CrownIBP(threat, **self.model_dump(exclude={"kind"}))


class SabrSettings(_CertifiedSettings):
    """Certified training by small boxes around adversarial images; `step_size` is in units of eps."""

    kind: Literal["sabr"]
    box: Annotated[float, Field(gt=0, le=1)] = 0.4
    n_steps: PositiveInt = 8
    step_size: Positive = 0.5

    def build(self, threat: Ball) -> Objective:
        return Sabr(threat, **self.model_dump(exclude={"kind"}))


class MtlIBPSettings(_CertifiedSettings):
    """Certified and adversarial training, weighted by `alpha` and the rest; `step_size` is in units of eps."""

    kind: Literal["mtl-ibp"]
    alpha: Share = 0.5
    n_steps: PositiveInt = 1
    step_size: Positive = 2.0

    def build(self, threat: Ball) -> Objective:
        return MtlIBP(threat, **self.model_dump(exclude={"kind"}))


class DiffAISettings(_Strict):
    """A goal in the language of DiffAI, in which `eps` is that of the recipe and time is counted in epochs."""

    kind: Literal["diffai"]
    goal: str

    @pydantic.field_validator("goal")
    @classmethod
    def _readable(cls, value: str) -> str:
        read_goal(value, eps=1.0)
        return value

    def build(self, threat: Ball) -> Objective:
        return DiffAI(threat, read_goal(self.goal, threat.eps))


class DistilledSettings(_Strict):
    """Defensive distillation; without the checkpoint folder of an `earlier` network, the training of the teacher."""

    kind: Literal["distilled"]
    temperature: Positive = 100.0
    earlier: str | None = None

    def build(self, threat: Ball) -> Objective:
        return Distilled(self.temperature, _opened(self.earlier))


class CascadeSettings(_Strict):
    """Cascade adversarial training; without the checkpoint folder of an `earlier` network, the training of that one."""

    kind: Literal["cascade"]
    earlier: str | None = None
    n_steps: PositiveInt = 10
    adversarial_weight: NotNegative = 0.3
    similarity: NotNegative = 1e-4

    def build(self, threat: Ball) -> Objective:
        network = _opened(self.earlier)
        engine = None if network is None else Engine(network, precision="float32")
        return CascadeTraining(threat, engine, **self.model_dump(exclude={"kind", "earlier"}))


def _opened(folder: str | None) -> nn.Module | None:
    return None if folder is None else checkpoint.load(Path(folder))[0].eval().requires_grad_(False)


class ModelSettings(_Strict):
    """An architecture of `casemate models` and its arguments."""

    name: str
    arguments: dict[str, Any] = {}


class OptimiserSettings(_Strict):
    """Adam or SGD with Nesterov momentum; `lr` is the peak of the schedule. Weight decay is AdamW's or SGD's own.

    `clip` is what the norm of the gradient of all weights is cut to.
    """

    kind: Literal["adam", "sgd"] = "adam"
    lr: Positive = 1e-3
    momentum: Share = 0.9
    weight_decay: NotNegative = 0.0
    schedule: Shape = "linear"
    warm_up: Share = 0.0
    clip: Positive | None = None

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        if self.kind == "adam":
            return torch.optim.AdamW(model.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        return torch.optim.SGD(
            model.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.momentum > 0,
        )

    def rate(self, progress: float) -> float:
        """The learning rate at `progress` of training, in [0, 1)."""
        return self.lr * schedule.rate(self.schedule, progress, self.warm_up)


class CheckSettings(_Strict):
    """The check on held-out training images: after every `every` epochs, FGSM and PGD with `n_steps` steps."""

    n: PositiveInt = 500
    every: PositiveInt = 1
    n_steps: PositiveInt = 20
    patience: PositiveInt | None = None
    keep: Literal["best", "last"] = "best"


class Recipe(_Strict):
    """One training run. `train_threat` is what the objective trains on where that differs from `threat`.

    `threat` is what the network is to resist and is checked against. `hold_out` training images are never trained on.
    `average` is the decay of the weight average (None: the last iterate is kept). With `check.patience` set, training
    stops after so many checks without a better attacked accuracy and the best weights are kept; with `check.keep` at
    "last", only where it stopped, for among many checks on a few images the best is one of chance.
    """

    data: str
    model: ModelSettings
    objective: Annotated[
        NaturalSettings
        | AdversarialSettings
        | FastSettings
        | TradesSettings
        | IntervalSettings
        | CrownIBPSettings
        | SabrSettings
        | MtlIBPSettings
        | DiffAISettings
        | DistilledSettings
        | CascadeSettings,
        Field(discriminator="kind"),
    ]
    threat: str
    train_threat: str | None = None
    optimiser: OptimiserSettings = OptimiserSettings()
    epochs: Positive = 10
    batch_size: PositiveInt = 128
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    augment: Literal["none", "shift", "crop-flip"] = "none"
    hold_out: PositiveInt = 1000
    check: CheckSettings = CheckSettings()
    seed: int = 0

    @pydantic.field_validator("threat", "train_threat")
    @classmethod
    def _known_threat(cls, value: str | None) -> str | None:
        return None if value is None else str(parse(value))

    def build_objective(self) -> Objective:
        return self.objective.build(parse(self.train_threat or self.threat))


def read(path: Path) -> Recipe:
    """The recipe in a YAML file; raises `CasemateError` naming the file, the first wrong entry and why."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CasemateError(f"{path} is absent: name a recipe file, or one of `casemate train --list`") from None
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise CasemateError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    return from_dict(content, str(path))


def from_dict(content: Any, source: str) -> Recipe:
    """A validated recipe; `source` names where it came from in the error of one sentence."""
    if not isinstance(content, dict):
        raise CasemateError(f"{source} must hold entries such as `data: mnist`, not {type(content).__name__}")
    try:
        return Recipe.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the recipe"
        raise CasemateError(f"{source}: {place}: {first['msg'].removeprefix('Value error, ')}") from None


def built_in() -> dict[str, Path]:
    """The recipes that travel with the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def find(name: str) -> Recipe:
    """The built-in recipe called `name`, or else the YAML file of that path."""
    return read(built_in().get(name, Path(name)))
