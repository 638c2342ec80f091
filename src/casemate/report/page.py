"""The page of one run: everything it shows comes from the run folder, but for the clean images of the gallery."""

import functools
import shlex
from pathlib import Path
from typing import Any

import jinja2

from casemate import files
from casemate._version import __version__
from casemate.report import (
    accuracy,
    cascade,
    confusion,
    gallery,
    loss_paths,
    margins,
    settings,
    steps,
    surfaces,
    training_curve,
    words,
)
from casemate.report.bracket import bracket
from casemate.report.record import Record, adversarial_images, clean_images, or_damaged, read


def write(run: Path) -> Path:
    """Write RUN/report.html, one self-contained page, and return its path.

    It loads nothing from outside itself and runs no script. Equal run folders give equal bytes. The clean images of
    the gallery are taken from the data set, where it is at hand and still the one that was audited.
    Raises `CasemateError` where the run is not finished or a file of it is damaged.
    """
    record = read(run)
    path = run / "report.html"
    with or_damaged(f"the run in {run}"):
        page = render("run.html", **_contents(record))
    files.write_bytes(path, page)
    return path


def render(template: str, **contents: Any) -> bytes:
    # A file name may hold what UTF-8 cannot say.
    return _environment().get_template(template).render(**contents).encode("utf-8", "replace")


def _contents(record: Record) -> dict[str, Any]:
    manifest, summary, verdicts = record.manifest, record.summary, record.verdicts
    classes = manifest["data"]["classes"]
    curve = accuracy.curve(record.curves)
    paths = loss_paths.loss_paths(record.curves)
    broken = gallery.choose_broken(verdicts, [stage["name"] for stage in manifest["attacks"]])
    clean, clean_missing = clean_images(record, [*broken, *gallery.nearest_unresolved(verdicts)["index"]])
    return {
        "manifest": manifest,
        "summary": summary,
        "norm": summary["threat"].partition(":")[0],
        "bracket": bracket(summary),
        "curve": curve,
        "curve_figure": curve and accuracy.figure_of_one(curve, summary),
        "stages": cascade.stage_rows(summary, verdicts),
        "gallery": gallery.gallery(verdicts, manifest, adversarial_images(record, broken), clean),
        "clean_missing": clean_missing,
        "paths": paths,
        "steps_figure": steps.figure(record.curves),
        "surfaces_figure": surfaces.figure(record.curves),
        "paths_figure": paths and loss_paths.figure(paths),
        "training_figure": training_curve.figure(record.training),
        "alarm": training_curve.alarm(record.training),
        "margins_figure": margins.figure(verdicts),
        "confusion": confusion.confusion(verdicts, classes),
        "commands": [line for line in manifest.get("command_lines") or [manifest["command"]] if line],
        "groups": settings.settings_groups(manifest),
        "attack_rows": settings.attack_rows(manifest),
        "certifier_rows": settings.certifier_rows(manifest),
    }


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("casemate.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": words.percent,
        "count": words.count,
        "images": words.images,
        "seconds": words.seconds,
        "breakable": words.breakable,
        "decimal": words.decimal,
        "tenths": words.tenths,
        "listed": words.listed,
        "quoted": shlex.quote,
        "described": settings.described,
    }
    environment.globals |= {"version": __version__} | {
        "finding": words.finding,
        "judged": words.judged,
        "details": words.details,
        "rate": words.rate,
    }
    return environment
