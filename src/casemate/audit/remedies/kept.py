"""The networks that an audit has taught, kept in its run: a resumed audit follows the very same ones."""

import json
from collections.abc import Iterator
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from casemate import checkpoint, files
from casemate.audit.remedies.plan import Plan
from casemate.audit.remedies.ways import BySource, Learned
from casemate.defences.learned import Imitation
from casemate.errors import CasemateError, first_line

FOLDER = "taught"


def keep(run: Path, plan: Plan) -> None:
    """Write each network of `plan` that was taught to `run`/taught/SHA256.safetensors."""
    for sha256, network in _taught(plan):
        students = [network] if isinstance(network, Imitation) else list(network)
        shapes = [[student.shape_in, student.shape_out] for student in students]
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        content = safetensors.torch.save(tensors, {"shapes": json.dumps(shapes)})
        files.write_bytes(run / FOLDER / f"{sha256}.safetensors", content)


def kept(run: Path, device: torch.device) -> dict[str, nn.Module]:
    """The networks that `keep` wrote, by fingerprint; raises `CasemateError` naming the file that is damaged."""
    found: dict[str, nn.Module] = {}
    for path in sorted((run / FOLDER).glob("*.safetensors")):
        try:
            with safetensors.safe_open(path, "pt") as file:
                shapes = json.loads(file.metadata()["shapes"])
                students = [Imitation(*pair) for pair in shapes]
                network = students[0] if "scale" in file.keys() else nn.ModuleList(students)  # noqa: SIM118
                network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
            raise CasemateError(f"{path} is damaged ({first_line(error, 'unreadable')}): make the run again") from None
        network.eval().requires_grad_(False)
        if checkpoint.fingerprint(network) != path.stem:
            raise CasemateError(f"{path} is not the network that the run was made with: make the run again")
        found[path.stem] = network.to(device)
    return found


def _taught(plan: Plan) -> Iterator[tuple[str, Imitation | nn.ModuleList]]:
    for way in (plan.way, *plan.sources):
        if isinstance(way, Learned) and way.taught is not None:
            yield way.sha256, way.taught
        elif isinstance(way, BySource) and isinstance(way.source, Imitation):
            yield way.sha256, way.source
