"""Everything that was set, and everything that identifies what it was set on."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST_LIST = 20
Rows = list[tuple[str, str]]


def settings_groups(manifest: Mapping[str, Any]) -> list[tuple[str, Rows]]:
    """Titled groups of (name, value), in which no entry of the manifest is left out; the attacks are a table of theirs."""
    rest = {key: value for key, value in manifest.items() if key not in ("model", "data", "attacks")}
    model = {key: value for key, value in manifest["model"].items() if key != "card"}
    groups = [
        ("Run", list(flatten(rest))),
        ("Model", list(flatten(model))),
        ("Data", list(flatten(manifest["data"]))),
        ("Model card", list(flatten(manifest["model"].get("card") or {}))),
    ]
    return [(title, rows) for title, rows in groups if rows]


def attack_rows(manifest: Mapping[str, Any]) -> Rows:
    """Each stage with its settings in one line."""
    return [(stage["name"], in_words(stage.get("settings") or {})) for stage in manifest["attacks"]]


def in_words(settings: Mapping[str, Any]) -> str:
    """`n_steps 20, step_size 0.01, ...`."""
    return ", ".join(f"{name} {value}" for name, value in flatten(settings)) or "no settings"


def described(attack: Any) -> str:
    """An attack of curves.json: its name and settings, as far as they are given."""
    if not isinstance(attack, Mapping):
        return str(attack or "an attack that the run does not name")
    name = str(attack.get("name", "attack"))
    settings = attack.get("settings") or {key: value for key, value in attack.items() if key != "name"}
    return f"{name} ({in_words(settings)})" if settings else name


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested dictionaries as (dotted name, text); lists of plain values in one line, long ones cut and counted."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flatten(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(entry, Mapping | list) for entry in value):
        for place, inner in enumerate(value):
            yield from flatten(inner, f"{name}.{place}")
    elif isinstance(value, list):
        texts = [_text(entry) for entry in value[:LONGEST_LIST]]
        more = f" … ({len(value):,} in all)" if len(value) > LONGEST_LIST else ""
        yield name, (", ".join(texts) or "none") + more
    else:
        yield name, _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value)
