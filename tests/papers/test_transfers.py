"""Transfers in rows: FGSM and PGD side by side, and claims about them."""

import polars as pl
import pytest

from casemate.attacks import PGD
from casemate.papers.evaluation import Accuracy
from casemate.papers.madry2018 import transfers
from casemate.papers.madry2018.grid import Search

FGSM, SEVERAL = Search(PGD(n_steps=1, step_size=0.3, random_start=False)), Search(PGD(n_steps=7))


def fabricated(left: dict[str, float]) -> pl.DataFrame:
    """Two networks; `left` is what PGD leaves of each from a copy of itself, and FGSM leaves 0.9 of everything."""
    rows = []
    for line in transfers.lines(list(left), FGSM, SEVERAL, {("a", "a"): (50.0, 6.6), ("b", "b"): (60.0, 57.7)}):
        own = line.source == f"{line.target}'"
        share = 0.9 if line.method == "FGSM" else left[line.target] if own else 0.95
        rows.append(
            {
                "part": line.part,
                "target": line.target,
                "source": line.source,
                "method": line.method,
                "published": line.published,
                **Accuracy(round(100 * share), 100).columns(),
            }
        )
    return pl.DataFrame(rows)


def test_one_row_for_each_target_and_source() -> None:
    rows = {row.item: row for row in transfers.rows("MNIST", fabricated({"a": 0.1, "b": 0.6}))}
    assert len(rows) == 4
    own = rows["MNIST: on a from a', FGSM / PGD"]
    assert (own.published, own.ours, own.note) == ("50.0 / 6.6", "90.0 / 10.0", "n = 100")
    other = rows["MNIST: on a from b', FGSM / PGD"]
    assert (other.published, other.ours) == ("not printed", "90.0 / 95.0")


@pytest.mark.parametrize(
    ("left", "verdict"),
    [
        ({"a": 0.1, "b": 0.6}, "holds"),
        ({"a": 0.6, "b": 0.1}, "does not hold"),
        ({"a": 0.5, "b": 0.55}, "too close for so few images"),
    ],
)
def test_a_claim_compares_what_copies_leave(left: dict[str, float], verdict: str) -> None:
    row = transfers.claim("MNIST", fabricated(left), "stronger is better", "a", "b")
    assert row.published == "6.6, 57.7"
    assert row.ours == f"{100 * left['a']:.1f}, {100 * left['b']:.1f}"
    assert row.note == verdict
