"""Classifiers as ONNX files, compared with what ONNX Runtime makes of them."""

import warnings
from pathlib import Path

import torch
from torch import nn

from casemate import files
from casemate.errors import CasemateError, first_line
from casemate.gradients import evaluating
from casemate.threat import Images

# How far apart the logits may be, as a share of the largest: what other orders of summation do.
TOLERANCE = 1e-4


def write_network(model: nn.Module, path: Path, images: Images) -> float:
    """Write `model` to `path` as ONNX, for batches of any size; returns the largest difference of the logits.

    The input is called `image` [batch, C, H, W] and the output `logits`. `images`, of which there must be at least one,
    are given to both. Raises `CasemateError` for a file that is there already, a classifier that draws at random or
    that has no counterpart in ONNX, and where ONNX Runtime says something else; then nothing is written.
    """
    try:
        import onnxruntime
    except ImportError:
        raise CasemateError("writing ONNX files needs the extra: pip install 'casemate[onnx]'") from None
    if path.exists():
        raise CasemateError(f"{path} exists already: name another file")
    if any(getattr(module, "stochastic", False) for module in model.modules()):
        raise CasemateError("a classifier that draws at random cannot be written as ONNX")
    images = images.cpu()
    place = next(model.parameters(), images).device
    with files.replacing(path) as temporary:
        with evaluating(model), torch.no_grad():
            logits = model(images.to(place)).cpu()
            _export(model, images[:1].to(place), temporary)
        session = onnxruntime.InferenceSession(temporary.read_bytes(), providers=["CPUExecutionProvider"])
        (answer,) = session.run(None, {"image": images.numpy()})
        found = torch.from_numpy(answer)
        difference = float((found - logits).abs().max()) if found.shape == logits.shape else float("inf")
        if not difference <= TOLERANCE * float(logits.abs().max()):
            raise CasemateError(
                f"ONNX Runtime answers otherwise than the classifier, by {difference:g}: nothing is written"
            )
    return difference


def _export(model: nn.Module, image: Images, path: Path) -> None:
    batch = {0: "batch"}
    with warnings.catch_warnings():
        # The exporter by torch.export splits what `read_network` reads as one layer, and needs another package.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                model,
                (image,),
                str(path),
                dynamo=False,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": batch, "logits": batch},
            )
        except Exception as error:
            reason = first_line(error, type(error).__name__)
            raise CasemateError(f"the classifier cannot be written as ONNX: {reason}") from None
