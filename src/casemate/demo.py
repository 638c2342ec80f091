"""The whole story in a few minutes: a natural and a robust network, trained, audited and set side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casemate import audit, data, report
from casemate.checkpoint import open_model
from casemate.threat import parse
from casemate.training import recipe as recipes
from casemate.training.log import Observer
from casemate.training.train import Settings, train

NETWORKS = {"natural": "demo-natural", "robust": "demo-robust"}


@dataclass(frozen=True)
class Demo:
    """What the demo made: a summary and a page for each network, and one page for both."""

    summaries: dict[str, audit.Summary]
    pages: dict[str, Path]
    comparison: Path

    def rows(self) -> list[tuple[str, audit.Summary, Path]]:
        return [(name, summary, self.pages[name]) for name, summary in self.summaries.items()]

    def as_json(self) -> dict[str, Any]:
        return {
            "comparison": str(self.comparison),
            "networks": {name: {**s.as_json(), "report": str(page)} for name, s, page in self.rows()},
        }


def run(
    folder: Path,
    *,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
    training: Observer | None = None,
    auditing: Callable[[audit.Progress], None] | None = None,
) -> Demo:
    """Train both networks of `NETWORKS` on the embedded digits and audit both; what is there already is not redone.

    `say` is told what begins; `training` and `auditing` are told of the progress of each part.
    """
    say = say or (lambda _: None)
    summaries, pages = {}, {}
    for name, recipe_name in NETWORKS.items():
        chosen = recipes.find(recipe_name).model_copy(update={"seed": seed})
        checkpoint, audited = folder / name, folder / f"{name}-audit"
        say(f"training the {name} network ({recipe_name})")
        train(chosen, checkpoint, Settings(resume=True, command="casemate demo"), observe=training)
        opened = open_model(str(checkpoint))
        say(f"auditing the {name} network at {chosen.threat}")
        summaries[name] = audit.audit(
            opened.model,
            data.load(chosen.data, "test"),
            parse(chosen.threat),
            run=audited,
            preset="quick",
            seed=seed,
            resume=True,
            spec=str(checkpoint),
            card=opened.card,
            command="casemate demo",
            progress=auditing,
        )
        pages[name] = report.write(audited)
    runs = [folder / f"{name}-audit" for name in NETWORKS]
    return Demo(summaries, pages, report.compare(runs, folder / "compare.html"))
