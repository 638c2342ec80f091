"""Run folders made up without an audit: real digits, invented verdicts."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from casemate import data
from casemate.audit.statistics import clopper_pearson
from casemate.audit.verdict import EVIDENCE_SCHEMA, VERDICT_SCHEMA

STAGES = ("FGSM", "PGD-20 cross-entropy", "PGD-100 x 5 margin", "MultiTarget 9 x PGD-100 margin")


def run_folder(
    folder: Path,
    *,
    n: int = 20,
    verdicts: tuple[int, int, int] = (1, 6, 0),
    data_name: str = "digits-sample",
    shape: tuple[int, int, int] = (1, 28, 28),
    classes: tuple[str, ...] = tuple("0123456789"),
    model: str = "runs/robust",
    threat: str = "linf:0.3",
    eps: float = 0.3,
    stages: tuple[str, ...] = STAGES,
    curves: bool = True,
    training: bool = True,
    seed: int = 0,
) -> Path:
    """`verdicts` counts the misclassified, broken and certified images; the others are unresolved.

    Clean images are those of `data_name` where it can be opened, else noise of `shape`.
    """
    rng = np.random.default_rng(seed)
    x, y, fingerprint = _images(data_name, n, shape, len(classes), rng)
    kinds = np.repeat(["misclassified", "broken", "certified", "unresolved"], [*verdicts, n - sum(verdicts)])
    rng.shuffle(kinds)
    rows, evidence = [], []
    for index in range(n):
        row = _row(index, int(y[index]), str(kinds[index]), stages, len(classes), rng)
        if row["verdict"] == "broken":
            x_adv = np.clip(x[index] + eps * rng.choice([-1, 0, 1], size=x[index].shape), 0, 1).astype("<f4")
            row |= {"distance": eps, "evidence_sha256": hashlib.sha256(x_adv.tobytes()).hexdigest()}
            evidence.append({"index": index, "shape": list(x_adv.shape), "image": x_adv.tobytes()})
        rows.append(row)
    described = {"name": data_name, "split": "test", "n": n, "limit": n, "fingerprint": fingerprint}
    described |= {"classes": list(classes), "shape": list(x.shape[1:])}
    summary = _summary(rows, model, f"{data_name}[test]", threat, stages, folder)
    (folder / "verdicts").mkdir(parents=True)
    (folder / "evidence").mkdir()
    (folder / "timings").mkdir()
    pl.DataFrame(rows, schema=VERDICT_SCHEMA).write_parquet(folder / "verdicts" / "part-00000000.parquet")
    pl.DataFrame(evidence, schema=EVIDENCE_SCHEMA).write_parquet(folder / "evidence" / "part-00000000.parquet")
    times = {"clean": 0.1, "attacks": {a["name"]: a["seconds"] for a in summary["attacks"]}, "attribution": 0.2}
    _json(folder / "timings" / "part-00000000.json", times)
    _json(folder / "run.json", _manifest(described, model, threat, stages))
    _json(folder / "summary.json", summary)
    if curves:
        _json(folder / "curves.json", _curves(summary, eps, min(n, 6), rng))
    if training:
        lines = [json.dumps(line) for line in _training(rng)]
        (folder / "training.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Change some top-level entries of a JSON file."""
    _json(path, json.loads(path.read_text()) | changes)


def _images(
    name: str, n: int, shape: tuple[int, int, int], n_classes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, str]:
    if ":" in name:
        return rng.random((n, *shape), dtype=np.float32), rng.integers(n_classes, size=n), "0" * 64
    dataset = data.load(name, "test", limit=n)
    return dataset.images.numpy(), dataset.labels.numpy(), dataset.fingerprint


def _row(
    index: int, label: int, verdict: str, stages: tuple[str, ...], n_classes: int, rng: np.random.Generator
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(VERDICT_SCHEMA)
    wrong = (label + 1 + int(rng.integers(n_classes - 1) * rng.random())) % n_classes
    row |= {"index": index, "label": label, "verdict": verdict, "prediction": label, "broken_by": []}
    row |= {"confidence": float(rng.uniform(0.6, 1)), "margin": float(rng.gamma(3, 1.5))}
    if verdict == "misclassified":
        row |= {"prediction": wrong, "margin": -float(rng.gamma(2, 0.6))}
    if verdict == "certified":
        row |= {"certifier": "IBP", "proved_margin": float(rng.gamma(2, 0.5))}
    if verdict == "broken":
        first = min(int(rng.exponential(0.9)), len(stages) - 1)
        later = [name for name in stages[first + 1 :] if rng.random() < 0.6]
        row |= {"attack": stages[first], "adversarial_prediction": wrong, "broken_by": [stages[first], *later]}
        row |= {"adversarial_confidence": float(rng.uniform(0.3, 1)), "margin": -float(rng.gamma(2, 0.8))}
    return row


def _summary(
    rows: list[dict[str, Any]], model: str, data_name: str, threat: str, stages: tuple[str, ...], folder: Path
) -> dict[str, Any]:
    n = len(rows)
    names = ("misclassified", "broken", "certified", "unresolved")
    counts = {name: sum(row["verdict"] == name for row in rows) for name in names}
    standing = n - counts["misclassified"] - counts["broken"]
    attacks, tried = [], n - counts["misclassified"]
    for place, name in enumerate(stages):
        broke = sum(row["attack"] == name for row in rows)
        alone = sum(row["broken_by"] == [name] for row in rows)
        attacks.append(
            {"name": name, "tried": tried, "broke": broke, "alone": alone, "seconds": 0.4 * (place * 4 + 1) * n / 100}
        )
        tried -= broke
    return {
        "model": model,
        "data": data_name,
        "threat": threat,
        "n": n,
        "seed": 0,
        "seconds": 61.2,
        "run": f"runs/{folder.name}",
        "clean_accuracy": 1 - counts["misclassified"] / n,
        "attacked_accuracy": standing / n,
        "certified_accuracy": counts["certified"] / n,
        "robust_accuracy_interval": [clopper_pearson(counts["certified"], n)[0], clopper_pearson(standing, n)[1]],
        "verdicts": counts,
        "attacks": attacks,
        "certifiers": [
            {
                "name": "IBP",
                "tried": n - counts["misclassified"],
                "proved": counts["certified"],
                "seconds": 0.3,
                "unusable": None,
            },
            {"name": "CROWN-IBP", "tried": 0, "proved": 0, "seconds": 0.0, "unusable": "no rule for pool1"},
        ],
        "evaluation": None,
        "symptoms": [],
        "remedies": [],
        "ways": [],
    }


def _manifest(described: dict[str, Any], model: str, threat: str, stages: tuple[str, ...]) -> dict[str, Any]:
    settings = {
        "kind": "PGD",
        "n_steps": 20,
        "step_size": 0.01,
        "loss": "cross-entropy",
        "random_start": True,
        "target_rank": None,
    }
    card = {
        "architecture": "MadryMNIST",
        "arguments": {"scale": 16},
        "recipe": {"objective": {"kind": "adversarial", "n_steps": 7, "step_size": 0.1}, "epochs": 12},
        "threat": threat,
        "metrics": {"clean_accuracy": 0.985, "attacked_accuracy": 0.93},
        "seconds": 812.3,
    }
    return {
        "format": 4,
        "casemate_version": "0.1.0",
        "torch_version": "2.9.0",
        "python_version": "3.11.7",
        "platform": "Linux-6.1-x86_64",
        "command": f"casemate audit {model} --data {described['name']} --threat {threat} --limit {described['n']}",
        "created": "2025-01-02T03:04:05+00:00",
        "model": {"spec": model, "weights": None, "sha256": hashlib.sha256(model.encode()).hexdigest(), "card": card},
        "data": described,
        "threat": threat,
        "seed": 0,
        "preset": "standard",
        "attacks": [{"name": name, "settings": settings} for name in stages],
        "certifiers": [
            {"name": "IBP", "early": True, "settings": {"kind": "IBP"}, "unusable": None},
            {"name": "CROWN-IBP", "early": False, "settings": {"kind": "CROWNIBP"}, "unusable": "no rule for pool1"},
        ],
        "remedies": {"logarithm": False, "seeded": "no", "way": {"kind": "Own"}, "n_queries": 0, "sources": []},
        "precision": "bfloat16",
        "batch_size": None,
        "device": "cpu",
        "threads": 2,
    }


def _curves(summary: dict[str, Any], eps: float, n_paths: int, rng: np.random.Generator) -> dict[str, Any]:
    n, pgd = summary["n"], {"kind": "PGD", "n_steps": 20, "step_size": None, "loss": "cross-entropy"}
    attack = {"kind": "Worst", "attacks": [pgd, pgd | {"loss": "margin"}]}
    grid = [eps * k / 6 for k in range(9)]
    floor = min(summary["attacked_accuracy"] + 0.02, summary["clean_accuracy"])
    share = [summary["clean_accuracy"] - (summary["clean_accuracy"] - floor) * (e / eps) ** 2 for e in grid]
    share = [max(0.0, s - 2.5 * max(0.0, e - eps) / eps) for s, e in zip(share, grid, strict=True)]
    intervals = [list(clopper_pearson(round(s * n), n)) for s in share]
    steps = np.arange(100)
    tops = np.exp(rng.normal(-1, 2, size=n_paths))
    loss = [
        [(top * (1 - np.exp(-steps / rng.uniform(8, 25))) * rng.uniform(0.9, 1.05) + 1e-4).tolist() for _ in range(20)]
        for top in tops
    ]
    return {
        "accuracy_against_eps": {
            "n": n,
            "eps": grid,
            "attacked_accuracy": share,
            "interval": intervals,
            "attack": attack,
        },
        "accuracy_against_steps": {
            "n": n,
            "attacked_accuracy": [summary["clean_accuracy"] * (1 - step / 200) for step in range(101)],
            "attack": pgd,
        },
        "loss_surfaces": {
            "indices": [0, 2],
            "loss": [[[a + 0.3 * b - 1 for b in range(5)] for a in range(5)] for _ in range(2)],
        },
        "loss_paths": {"indices": list(range(n_paths)), "n_starts": 20, "loss": loss, "attack": pgd},
    }


def _training(rng: np.random.Generator) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(20, 2001, 20):
        loss = 0.25 + 2.2 * np.exp(-step / 400) + rng.normal(0, 0.03)
        lines.append({"kind": "train", "step": step, "epoch": step / 400, "loss": loss, "lr": 0.1})
        if step % 200 == 0:
            robust = 0.9 * (1 - np.exp(-step / 500))
            accuracies = {"clean_accuracy": min(0.985, robust + 0.25), "one_step_accuracy": robust + 0.03}
            lines.append({"kind": "check", "step": step, "epoch": step / 400, "attacked_accuracy": robust} | accuracies)
    return lines


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
