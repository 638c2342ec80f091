"""What an audit refuses before it spends a single gradient."""

import torch

from casemate import rng
from casemate.audit.manifest import device_of
from casemate.audit.remedies.plan import Plan
from casemate.classifier import check_batch, check_logits
from casemate.data import Dataset
from casemate.errors import CasemateError, first_line
from casemate.gradients import Engine, evaluating
from casemate.losses import Logits, cross_entropy
from casemate.threat import Images

_CHUNK = 1024


def refuse_unfit(engine: Engine, data: Dataset) -> int:
    """Check that the classifier and the images can be audited, with one forward pass over all of them.

    Returns the number of logits. Raises `CasemateError` where there are no images, an image is outside [0, 1], a label
    is none of the classes, a weight is NaN or infinite, the classifier fails on images of this shape or answers with
    anything but finite logits, probabilities among them, or with fewer logits than the data has classes.
    """
    if not len(data):
        raise CasemateError("there are no images to audit: choose a limit of 1 or more")
    check_batch(data.images, data.labels, data.n_classes)
    _refuse_weights(engine)
    n_logits = 0
    for start in range(0, len(data), _CHUNK):
        n_logits = _refuse_answers(engine, data, start)
    if n_logits < data.n_classes:
        raise CasemateError(
            f"the model has {n_logits} logits and {data.name} has {data.n_classes} classes: "
            "it must have one for each class"
        )
    return n_logits


def refuse_sources(plan: Plan, data: Dataset, n_logits: int) -> None:
    """Raise `CasemateError` where a classifier to transfer from does not answer these images with as many logits."""
    for source in plan.sources:
        engine = Engine(source.network, precision="float32")
        x = data.images[:2].to(device_of(source.network))
        try:
            found = answers(engine, x, rng.image_keys(0, torch.arange(len(x), device=x.device))).shape[1]
        except CasemateError as error:
            raise CasemateError(f"{source.name}, to transfer from, is unfit: {error}") from error
        if found != n_logits:
            raise CasemateError(f"{source.name}, to transfer from, has {found} logits, and the model has {n_logits}")


def answers(engine: Engine, x: Images, keys: rng.Keys) -> Logits:
    """`engine.logits`, where whatever the user's own code raises is a `CasemateError` too."""
    try:
        # The engine takes the answer for a tensor, so what it is is looked at first.
        with evaluating(engine.model), torch.no_grad(), rng.drawing_from(keys[:2]):
            check_logits(engine.model(x[:2].clone()), len(x[:2]), what="the model")
        return engine.logits(x, keys=keys)
    except CasemateError:
        raise
    except Exception as error:
        raise CasemateError(f"the model cannot take images of shape {list(x.shape[1:])}: {_reason(error)}") from error


def settle_search(engine: Engine, data: Dataset) -> None:
    """The first gradient, on a few images: it fixes precision and draws of the search, or shows that there is none."""
    device = device_of(engine.model)
    x, y = data.images[:64].to(device), data.labels[:64].to(device)
    try:
        engine.gradient(x, y, cross_entropy, keys=rng.image_keys(0, torch.arange(len(x), device=device)))
    except CasemateError:
        raise
    except Exception as error:
        raise CasemateError(
            f"the model has no gradient with respect to its images ({_reason(error)}): "
            "give the layers that break it a surrogate"
        ) from error


def _refuse_weights(engine: Engine) -> None:
    for name, weight in engine.model.named_parameters():
        if not weight.isfinite().all():
            raise CasemateError(f"the model holds NaN or infinite weights in {name!r}; use weights from before that")


def _refuse_answers(engine: Engine, data: Dataset, start: int) -> int:
    x = data.images[start : start + _CHUNK].to(device_of(engine.model))
    keys = rng.image_keys(0, torch.arange(start, start + len(x), device=x.device))
    try:
        return answers(engine, x, keys).shape[1]
    except CasemateError as error:
        raise error if start == 0 else CasemateError(f"in the batch from image {start} on, {error}") from error


def _reason(error: Exception) -> str:
    return first_line(error, type(error).__name__)
