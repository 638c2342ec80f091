"""Tables of the results: `python -m benchmarks.tables` writes them into benchmarks/README.md from results/*.json."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS
from casemate import files

README = Path(__file__).parent / "README.md"

Row = dict[str, Any]


def attack_table(result: Row) -> str:
    rows = [
        (
            row["name"],
            row["handed"].partition(",")[0],
            f"{row['wall']:.2f}",
            f"{row['wall_multiple']:.2f}",
            f"{row['cpu_multiple']:.2f}",
            "" if row["name"].startswith("bare") else f"{row['attacked_accuracy']:.1%}",
            "" if row["name"].startswith("bare") else str(row["outside"]),
        )
        for row in result["rows"]
    ]
    head = ("", "handed", "seconds", "x bare", "x bare, CPU time", "attacked accuracy", "images outside")
    ways = list(next(iter(result["trials"].values())))
    unit = result["trials"]["bare"][ways[0]]["wall"]
    trials = [(name, *(f"{found[way]['wall'] / unit:.2f}" for way in ways)) for name, found in result["trials"].items()]
    return "\n".join(
        [
            _facts(result),
            "",
            _markdown(head, rows),
            "",
            f"Each way to hand the images over, {result['trial_steps']} steps, as multiples of the first figure:",
            "",
            _markdown(("", *ways), trials),
        ]
    )


def training_table(result: Row) -> str:
    ours = result["rows"][0]
    head = ("", "seconds an epoch", "x casemate", "x casemate, CPU time", "clean", "attacked accuracy")
    rows = [
        (
            row["name"],
            f"{row['wall'] * result['steps_per_epoch'] / result['steps']:.0f}",
            f"{row['wall'] / ours['wall']:.2f}",
            f"{row['cpu'] / ours['cpu']:.2f}",
            f"{row['clean_accuracy']:.1%}",
            f"{row['attacked_accuracy']:.1%}",
        )
        for row in result["rows"]
    ]
    return f"{_facts(result)}\n\n{_markdown(head, rows)}"


def speed_table(result: Row) -> str:
    goal, rows = f"{result['goal']:.0%}", result["rows"]
    runs = [(row["name"], run) for row in rows for run in row["runs"]]
    seeds = ", ".join(str(run["seed"]) for run in rows[0]["runs"])
    head = ("", f"every seed at {goal}", "median seconds", "median CPU seconds")
    parts = [
        _facts(result, f"seeds {seeds}"),
        f"Judged on the first {result['n']} test images of {result['data']} under {result['threat']}; Fast-AT for "
        f"{result['fast_epochs']} epochs, ART for {result['budget']:.0f} s.",
        _markdown(head, [(row["name"], _every(row), f"{row['wall']:.1f}", f"{row['cpu']:.1f}") for row in rows]),
        _runs(goal, runs),
    ]
    along = [
        (name, str(run["seed"]), ", ".join(map(_point, run["points"]))) for name, run in runs if len(run["points"]) > 1
    ]
    if along:
        parts.append(_markdown(("", "seed", "attacked accuracy along the way"), along))
    return "\n\n".join(parts)


def autoattack_table(result: Row) -> str:
    head = ("", "seed", "clean", "attacked accuracy", "95% interval", "broken by it alone", "seconds", "CPU seconds")
    rows = []
    for found in result["rounds"]:
        for side in ("casemate", "autoattack"):
            one, (low, high) = found[side], found[side]["interval"]
            shares = (f"{one['clean'] / result['n']:.1%}", f"{one['attacked'] / result['n']:.1%}")
            times = (f"{one['wall']:.0f}", f"{one['cpu']:.0f}")
            alone = str(len(found[f"only_{side}"]))
            rows.append((side, str(found["seed"]), *shares, f"{low:.1%} to {high:.1%}", alone, *times))
    ratios = [found["autoattack"]["wall"] / found["casemate"]["wall"] for found in result["rounds"]]
    stages = [
        (side, stage["name"], str(stage["stand"]), f"{stage['wall']:.1f}")
        for side in ("casemate", "autoattack")
        for stage in result["rounds"][0][side]["stages"]
    ]
    return "\n\n".join(
        [
            _facts(result, f"{len(ratios)} seeds"),
            f"The first {result['n']} test images of {result['data']} under {result['threat']}. AutoAttack takes "
            f"{', '.join(f'{ratio:.1f}' for ratio in ratios)} times as long as `{result['preset']}`.",
            _markdown(head, rows),
            _markdown(("", "attack, first seed", "stand after it", "seconds"), stages),
        ]
    )


def _every(row: Row) -> str:
    reached = sum(run["reached"] is not None for run in row["runs"])
    return "yes" if reached == len(row["runs"]) else f"no, {reached} of {len(row['runs'])}"


def _runs(goal: str, runs: Sequence[tuple[str, Row]]) -> str:
    head = ("", "seed", "seconds", "CPU seconds", "clean", "attacked accuracy", "95% interval", f"time to {goal}")
    rows = []
    for name, run in runs:
        last = run["points"][-1]
        low, high = last["interval"]
        rows.append(
            (
                name,
                str(run["seed"]),
                f"{last['wall']:.1f}",
                f"{last['cpu']:.1f}",
                f"{last['clean_accuracy']:.1%}",
                f"{last['attacked_accuracy']:.1%}",
                f"{low:.1%} to {high:.1%}",
                _reached(run),
            )
        )
    return _markdown(head, rows)


def _reached(run: Row) -> str:
    """When a run was first seen at the goal; one that is judged at its end alone may have been there before."""
    if run["reached"] is None:
        return f"not reached: {_point(run['points'][-1])}"
    return f"{run['reached']:.1f} s"


def _point(point: Row) -> str:
    return f"{point['attacked_accuracy']:.1%} after {point['wall']:.0f} s"


def _facts(result: Row, rounds: str = "") -> str:
    machine, versions = result["machine"], result["versions"]
    rounds = rounds or f"seed {result['seed']}, median of {result['repeats']}"
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"`{result['command']}`: {result['date']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['instructions']}, {result['threads']} threads, {rounds}, "
        f"{result['seconds']} s in all, load before {result['load_before']}; "
        f"network: {result['network']}; {packages}."
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES: dict[str, Callable[[Row], str]] = {
    "pgd_speed": attack_table,
    "active_set": attack_table,
    "active_set_cifar10": attack_table,
    "training_speed": training_table,
    "speed_run": speed_table,
}


def main() -> None:
    text = README.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        if not (RESULTS / f"{name}.json").exists():
            continue
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        text = f"{before}{begin}\n{table(result)}\n\n{end}{after}"
    files.write_bytes(README, text.encode())


if __name__ == "__main__":
    main()
