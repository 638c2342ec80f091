"""auto_LiRPA 0.3 beside a PyTorch and a NumPy that came years after it: what it imports and they have moved."""

import importlib
import sys
import tempfile
import types
from typing import Any

import numpy as np
import torch

from casemate.errors import CasemateError


def load() -> Any:
    """The package; raises `CasemateError` saying how to get it."""
    _stand_in("numpy.lib.arraysetops", isin=np.isin)
    folder = tempfile.mkdtemp()
    _stand_in("appdirs", user_data_dir=lambda *_: folder, user_cache_dir=lambda *_: folder)
    helper, utils, exporter = (
        importlib.import_module(f"torch.onnx.{name}")
        for name in ("symbolic_helper", "utils", "_internal.torchscript_exporter.utils")
    )
    vars(helper)["_set_opset_version"] = lambda version: None
    vars(utils)["_optimize_graph"] = vars(exporter)["_optimize_graph"]
    torch._C.Node.__getitem__ = lambda node, key: getattr(node, node.kindOf(key))(key)  # type: ignore[attr-defined]
    try:
        import auto_LiRPA
    except ImportError as error:
        raise CasemateError(
            f"{error}: pip install --no-deps --target FOLDER auto_LiRPA==0.3 tqdm, then PYTHONPATH=FOLDER:$PYTHONPATH"
        ) from None
    return auto_LiRPA


def _stand_in(name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(content)
    sys.modules.setdefault(name, module)
