"""Everything that was set, and everything that identifies what it was set on."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST_LIST = 20
# Entries of the manifest that have a place of their own on the page.
_ELSEWHERE = ("model", "data", "attacks", "certifiers", "command", "command_lines")
Rows = list[tuple[str, str]]


def settings_groups(manifest: Mapping[str, Any]) -> list[tuple[str, Rows]]:
    """Titled groups of (name, value), of all in the manifest but the attacks and command lines."""
    rest = {key: value for key, value in manifest.items() if key not in _ELSEWHERE}
    model = {key: value for key, value in manifest["model"].items() if key != "card"}
    groups = [
        ("Run", list(flatten(rest))),
        ("Model", list(flatten(model))),
        ("Data", list(flatten(manifest["data"]))),
        ("Model card", list(flatten(manifest["model"].get("card") or {}))),
    ]
    return [(title, rows) for title, rows in groups if rows]


def attack_rows(manifest: Mapping[str, Any]) -> Rows:
    """Each stage of the cascade with its settings in one line."""
    return [(stage["name"], described(stage["settings"])) for stage in manifest["attacks"]]


def certifier_rows(manifest: Mapping[str, Any]) -> Rows:
    """Each certifier with its settings in one line."""
    return [(proof["name"], described(proof["settings"])) for proof in manifest["certifiers"]]


def described(settings: Any) -> str:
    """An attack and those inside it with all their settings: `PGD (n_steps 20, loss margin)`."""
    if isinstance(settings, list):
        return ", ".join(described(entry) for entry in settings) or "none"
    if not isinstance(settings, Mapping):
        return _text(settings)
    name = settings.get("kind")
    inner = ", ".join(
        described(value) if isinstance(value, Mapping | list) else f"{key} {_text(value)}"
        for key, value in settings.items()
        if key != "kind"
    )
    return f"{name} ({inner})" if name and inner else str(name or inner)


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
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
