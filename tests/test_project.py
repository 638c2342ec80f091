"""The project around the library: what its files promise each other, and that what the README and docs show runs."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from torch import nn

from casemate import __version__, attacks, data, models
from casemate.audit import PRESETS
from casemate.losses import LOSSES
from casemate.testing import check_attack
from casemate.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def nav_pages(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    children = entry.values() if isinstance(entry, dict) else entry
    return [name for child in children for name in nav_pages(child)]


def test_changelog_names_no_version_newer_than_this_one() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [Version(heading) for heading in headings[1:]]
    assert headings[0] == "Unreleased"
    assert released == sorted(released, reverse=True)
    assert all(version <= Version(__version__) for version in released)


def test_citation_has_what_its_format_asks_for() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["project"]["license"]


def test_commands_of_readme_and_contributing_are_targets() -> None:
    named = set(re.findall(r"(?:^    |`)make (\w+)", README + (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    assert {"demo", "test", "check", "docs"} <= named <= targets


def test_files_that_the_readme_links_to_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    # The picture and the tables of numbers are made by runs that take hours.
    made = ("docs/images/", "papers/", "benchmarks/")
    assert all((ROOT / link).exists() for link in links if not link.startswith(made))


def test_hooks_run_the_checks_of_make_check() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = {hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in hooks}
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe is not None
    assert entries == set(re.findall(r"\$\(BIN\)/(.+)", recipe[1]))


def test_every_package_asked_for_is_pinned() -> None:
    pins = {}
    for name in ("constraints.txt", "constraints-bench.txt"):
        for line in (ROOT / name).read_text().splitlines():
            if not line.startswith("#"):
                package, version = line.split("==")
                pins[canonicalize_name(package)] = version
    groups = PROJECT["dependency-groups"]
    for line in [*PROJECT["project"]["dependencies"], *groups["dev"], *groups["bench"], "cleverhans", "torchattacks"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), line
    assert not [name for name in pins if name.startswith("nvidia")]


def test_every_package_imported_is_asked_for() -> None:
    distributions = importlib.metadata.packages_distributions()
    # An extra is asked for by name: its import is in a function that says so.
    extras = [line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines]
    wanted = [*PROJECT["project"]["dependencies"], *extras]
    asked = {canonicalize_name(Requirement(line).name) for line in wanted}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for name in top_level_imports(path) - sys.stdlib_module_names - {"casemate"}:
            providers = {canonicalize_name(provider) for provider in distributions[name]}
            assert providers & asked, f"{path} imports {name}"


def top_level_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_wheel_holds_all_that_the_package_reads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"casemate-{__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "src" / "casemate"
    present = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {str(path.relative_to(ROOT / "src")) for path in present} <= names
    assert "casemate/py.typed" in names
    assert sum(name.startswith("casemate/data/sample/") and name.endswith(".gz") for name in names) == 4
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_every_room_has_a_page() -> None:
    pages = nav_pages(SITE["nav"])
    rooms = {path.parent.name for path in (ROOT / "src" / "casemate").glob("*/__init__.py")}
    assert {f"{room}.md" for room in {*rooms, "threat", "classifier", "gradients", "cli"}} <= set(pages)
    assert sorted(pages) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        (
            "attacks.md",
            [name for name, value in vars(attacks).items() if is_dataclass(value) and "__call__" in vars(value)],
        ),
        ("data.md", list(data.LOADERS)),
        ("gradients.md", list(LOSSES)),
        ("audit.md", list(PRESETS)),
        ("models.md", [f"{row.name}` | {row.n_parameters:,}" for row in models.describe()]),
    ],
)
def test_every_thing_listed_in_the_code_has_a_row(name: str, rows: list[str]) -> None:
    for row in rows:
        first, _, rest = row.partition("` | ")
        lines = [line for line in page(name).splitlines() if line.startswith(f"| `{first}")]
        assert lines, f"docs/{name} has no row for {first}"
        assert rest in lines[0]


def test_commands_are_documented() -> None:
    from casemate.cli import app

    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        assert f"`casemate {name}" in page("cli.md"), name
        assert f"`casemate {name}" in README, name


def test_recipe_in_the_docs_is_valid() -> None:
    recipe = re.search(r"^```yaml\n(.*?)^```", page("training.md"), re.DOTALL | re.MULTILINE)
    assert recipe is not None
    Recipe(**yaml.safe_load(recipe[1]))


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = code_blocks(README)
    assert len(example.splitlines()) <= 24
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(example, "README.md", "exec"), {"__name__": "example"})
    counts = [int(number) for number in re.findall(r"=(\d+)", capsys.readouterr().out)]
    assert len(counts) == 4
    assert sum(counts) == 100
    assert (tmp_path / "runs" / "linear" / "summary.json").is_file()


def test_attack_of_the_docs_keeps_the_promises_of_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("random_search")
    # Where a dataclass looks for the module it was made in.
    monkeypatch.setitem(sys.modules, "random_search", module)
    exec(compile(code_blocks(page("add-an-attack.md"))[0], "add-an-attack.md", "exec"), module.__dict__)
    check_attack(module.RandomSearch(n_samples=5), breaks_linear=False)


@pytest.mark.parametrize("declared", [True, False])
def test_defence_of_the_docs_is_seen_through_declared_or_not(
    declared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = code_blocks(page("add-a-defence.md"))
    assert len([line for line in example.splitlines() if line]) < 30
    if not declared:
        example = example.replace("surrogate = nn.Identity()", "surrogate = None").replace("\ncheck_defence", "\ndict")
        example = example.replace("dict(Posterise(4), ", "dict(")
    monkeypatch.chdir(tmp_path)
    network = classifier_of_digits()
    monkeypatch.setattr("casemate.checkpoint.open_model", lambda spec: SimpleNamespace(model=network))
    exec(compile(example, "add-a-defence.md", "exec"), {"__name__": "example"})
    share, evaluation = re.search(r"(\d+)% stand; the evaluation itself: (.*)", capsys.readouterr().out).groups()
    assert (tmp_path / "runs" / "posterise" / "report.html").is_file()
    assert int(share) <= 30
    assert evaluation == "no failure found"
    remedies = json.loads((tmp_path / "runs" / "posterise" / "summary.json").read_text())["remedies"]
    assert [symptom["id"] for remedy in remedies for symptom in remedy["symptoms"]] == (
        [] if declared else ["G7", "G8"]
    )


def classifier_of_digits() -> nn.Module:
    """Right about most digits after a second of training."""
    torch.manual_seed(0)
    digits, network = data.load("digits-sample", "train"), nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for x, y in zip(digits.images.split(50), digits.labels.split(50), strict=True):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
    return network.eval()
