"""A network that a user's own Python code makes: its folder importable while it runs, its failures one sentence."""

import contextlib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from casemate.errors import CasemateError, first_line


def made_by(spec: str, source: str, attribute: str) -> nn.Module:
    """The network that the callable `attribute` of `source`, a .py file or the name of a module, returns.

    `spec` is how the user named both. Raises `CasemateError` for code that is absent, that fails, or that makes
    something else.
    """
    is_file = source.endswith(".py")
    path = Path(source).resolve()
    if is_file and not path.is_file():
        raise CasemateError(f"{source} is absent: {spec} needs it")
    with _importable(path.parent if is_file else Path.cwd()), contextlib.redirect_stdout(sys.stderr):
        module = guarded(spec, lambda: _execute(path) if is_file else importlib.import_module(source))
        if not hasattr(module, attribute):
            raise CasemateError(f"{source} has no {attribute!r}: name a function in it that returns the network")
        factory = getattr(module, attribute)
        if isinstance(factory, nn.Module) or not callable(factory):
            raise CasemateError(f"{spec} is a {type(factory).__name__}: name a function that returns the network")
        model = guarded(spec, factory)
    if not isinstance(model, nn.Module):
        raise CasemateError(f"{spec} returned a {type(model).__name__}: it must return an nn.Module")
    return model


def guarded(spec: str, run: Callable[[], Any]) -> Any:
    """What `run` returns; whatever a user's code raises, or an exit, is a `CasemateError` that names `spec`."""
    try:
        return run()
    except (Exception, SystemExit) as error:
        raise CasemateError(f"{spec} failed with {type(error).__name__}: {first_line(error)}") from error


def _execute(path: Path) -> ModuleType:
    name = f"casemate_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    # Dataclasses, pickling and compilers look a class's module up here.
    sys.modules[name] = module
    module_spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """`folder` first on the import path while open; its modules' namesakes from another model's folder step aside."""
    _forget_namesakes(folder)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _forget_namesakes(folder: Path) -> None:
    """Two models may each have a `net.py` beside them: the second must not be given the first one's.

    A module whose folder is no longer on the import path was brought by an earlier model.
    """
    on_path = {Path(entry).resolve() for entry in sys.path} | {folder}
    for name in [name for name in sys.modules if "." not in name]:
        if not (folder / f"{name}.py").is_file() and not (folder / name / "__init__.py").is_file():
            continue
        origin = getattr(sys.modules[name], "__file__", None)
        if origin is None:
            continue
        home = Path(origin).resolve().parent
        if (home.parent if Path(origin).name == "__init__.py" else home) not in on_path:
            for loaded in [loaded for loaded in sys.modules if loaded == name or loaded.startswith(f"{name}.")]:
                del sys.modules[loaded]
