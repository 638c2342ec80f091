"""The arrows between the rooms point one way, and `import casemate` stays light."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import casemate

SOURCE = Path(casemate.__file__).parent

# Design, section 3: cli -> papers, report -> audit -> attacks, bounds, smoothing, detectors -> defences, gradients ->
# threat, classifier. A room imports from lines above its own, and nothing from its own line but itself.
LINES = (
    ("errors", "_version"),
    ("files", "malloc", "rng", "classifier", "losses", "sizes", "user_code"),
    ("threat", "data"),
    ("defences", "search_copy"),
    ("models", "precision", "draws"),
    ("checkpoint",),
    ("gradients",),
    ("attacks", "bounds", "smoothing", "detectors"),
    ("__init__",),
    ("audit", "training", "testing", "vnn"),
    ("report",),
    ("papers", "console"),
    ("demo",),
    ("cli",),
)
LINE_OF = {room: line for line, rooms in enumerate(LINES) for room in rooms}

HEAVY = (
    "jinja2", "lightning", "lightning_fabric", "matplotlib", "pandas", "PIL", "polars", "pooch", "pydantic", "rich",
    "scipy", "torchvision", "typer", "yaml",
)  # fmt: skip

MEASURE = """
import json, sys, time, torch
before, start = set(sys.modules), time.process_time()
import casemate
print(json.dumps({"seconds": time.process_time() - start, "new": sorted(set(sys.modules) - before)}))
"""


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively: write the whole name"
            names = [node.module or ""]
            if node.module == "casemate":
                names = [f"casemate.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "casemate":
                part = rest.partition(".")[0]
                # `from casemate import PGD` is an import of the package itself.
                yield part if part in LINE_OF else "__init__"


MODULES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_room_imports_one_to_its_left(path: Path) -> None:
    own = room(path)
    assert own in LINE_OF, f"{own} is a new room: give it a place in the order"
    for other in imported_rooms(path):
        assert other == own or LINE_OF[other] < LINE_OF[own], f"{path.relative_to(SOURCE)} imports from {other}"


def test_the_order_is_read_from_all_of_the_source() -> None:
    assert len(MODULES) > 40
    assert {"threat", "rng", "losses"} <= set(imported_rooms(SOURCE / "gradients.py"))


@pytest.fixture(scope="module")
def imports() -> dict[str, list[str] | float]:
    """The lightest of up to five imports, each in a process of its own, in seconds of processor time."""
    runs = []
    for _ in range(5):
        run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=300)
        runs.append(json.loads(run.stdout))
        if runs[-1]["seconds"] < 0.3:
            break
    return min(runs, key=lambda run: run["seconds"])


def test_import_takes_less_than_three_tenths_of_a_second_over_torch(imports: dict[str, float]) -> None:
    assert imports["seconds"] < 0.3


def test_import_brings_nothing_heavy(imports: dict[str, list[str]]) -> None:
    brought = {name.partition(".")[0] for name in imports["new"]}
    assert "casemate" in brought
    assert not brought & set(HEAVY)


def test_exported_names_are_those_of_all() -> None:
    public = {
        name
        for name, value in vars(casemate).items()
        if (not name.startswith("_") or name == "__version__") and not isinstance(value, type(casemate))
    }
    assert public == set(casemate.__all__)
