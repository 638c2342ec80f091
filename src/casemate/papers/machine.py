"""Where a number was measured: the machine, and the versions of what computed it."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from casemate._version import __version__


def machine(device: torch.device) -> dict[str, Any]:
    """The processor, its cores, the vector instructions PyTorch uses, the accelerator and the operating system."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Of Casemate, Python and the packages that compute and draw."""
    packages = {package: importlib.metadata.version(package) for package in ("torch", "polars", "matplotlib")}
    return {"casemate": __version__, "python": platform.python_version(), **packages}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
