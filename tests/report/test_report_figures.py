"""What the figures show is what they were given."""

import base64
import io
import math
import re

import numpy as np
import polars as pl
import pytest
from PIL import Image

from casemate.audit.verdict import VERDICT_SCHEMA
from casemate.report import accuracy, chart, confusion, gallery, loss_paths, margins, pictures, settings, words
from casemate.report import training_curve as training
from casemate.report.cascade import stage_rows


def verdicts(*rows: dict[str, object]) -> pl.DataFrame:
    blank = dict.fromkeys(VERDICT_SCHEMA) | {"broken_by": []}
    return pl.DataFrame([blank | {"index": place} | row for place, row in enumerate(rows)], schema=VERDICT_SCHEMA)


def broken(attack: str, **more: object) -> dict[str, object]:
    return {"verdict": "broken", "attack": attack, "label": 0, "adversarial_prediction": 1, "margin": -1.0} | more


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))))


def test_the_attacks_take_turns_in_the_gallery_each_giving_its_lowest_index() -> None:
    table = verdicts(*(broken("A") for _ in range(5)), {"verdict": "unresolved"}, broken("B"), broken("C"), broken("B"))
    assert gallery.choose_broken(table, ["A", "B", "C"], limit=12) == [0, 1, 2, 3, 4, 6, 7, 8]
    assert gallery.choose_broken(table, ["A", "B", "C"], limit=4) == [0, 1, 6, 7]
    assert gallery.choose_broken(table, ["C", "B", "A"], limit=3) == [0, 6, 7]
    assert gallery.choose_broken(table.clear(), ["A"], limit=3) == []


def test_the_unresolved_images_nearest_to_breaking_come_first() -> None:
    unresolved = [{"verdict": "unresolved", "margin": margin} for margin in (2.0, 0.5, 3.0, 0.5)]
    table = verdicts({"verdict": "certified", "margin": 0.1}, *unresolved)
    assert gallery.nearest_unresolved(table, limit=3)["index"].to_list() == [2, 4, 1]


def test_a_grey_image_keeps_its_pixels() -> None:
    image = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 4)
    assert (pixels(pictures.image_uri(image)) == np.rint(image[0] * 255)).all()


def test_a_colour_image_keeps_its_channels_and_two_channels_are_averaged() -> None:
    image = np.random.default_rng(0).random((3, 5, 4), dtype=np.float32)
    assert (pixels(pictures.image_uri(image)) == np.rint(image * 255).transpose(1, 2, 0)).all()
    assert pixels(pictures.image_uri(np.array([[[0.0]], [[0.4]]], dtype=np.float32))).tolist() == [[51]]


def test_a_large_image_is_shown_smaller() -> None:
    assert pixels(pictures.image_uri(np.zeros((1, 600, 300), dtype=np.float32))).shape == (128, 64)


def test_the_difference_is_white_at_zero_blue_below_and_red_above() -> None:
    delta = np.array([[[0.0, 0.3, -0.3, 9.0]]], dtype=np.float32)
    white, red, blue, beyond = pixels(pictures.difference_uri(delta, 0.3))[0].astype(int)
    assert white.min() > 240
    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0]
    assert (beyond == red).all()


def test_the_difference_of_colours_is_that_of_the_channel_that_changes_most() -> None:
    delta = np.array([[[0.1]], [[-0.3]], [[0.2]]], dtype=np.float32)
    assert (
        pixels(pictures.difference_uri(delta, 0.3))
        == pixels(pictures.difference_uri(np.array([[[-0.3]]], dtype=np.float32), 0.3))
    ).all()


def test_a_chart_is_text_and_variables_with_ids_of_its_own() -> None:
    svg = chart.draw(
        "name", 'said "so"', lambda figure: figure.subplots().set_title("a $x$ <b>"), *[chart.Size(300, 200)] * 2
    )
    assert 'aria-label="said &#34;so&#34;"' in svg
    assert svg.count("a $x$ &lt;b&gt;</text>") == 2
    assert "#0102" not in svg
    assert "var(--muted)" in svg
    assert not re.search(r"font-family|<metadata|xmlns|<!--|\d\.\d{3,}", svg)
    ids = re.findall(r' id="([^"]+)"', svg)
    assert len(ids) == len(set(ids))


def test_the_curve_is_read_and_an_absent_one_is_none() -> None:
    sweep = {"n": 4, "eps": [0, 0.1], "attacked_accuracy": [1.0, 0.25], "interval": [[0.4, 1], [0.01, 0.8]]}
    curve = accuracy.curve({"accuracy_against_eps": sweep})
    assert curve is not None
    assert (curve.low, curve.high) == ((0.4, 0.01), (1, 0.8))
    assert curve.label == "Attacked accuracy of 4 images against eps: 100.0% at 0, 25.0% at 0.1."
    assert accuracy.curve(None) is None
    assert accuracy.curve({"accuracy_against_eps": sweep | {"eps": []}}) is None


@pytest.mark.parametrize(("loss", "is_log"), [([1e-4, 5], True), ([1, 5], False), ([0, 5], False), ([-1, 99], False)])
def test_the_loss_axis_is_logarithmic_where_that_shows_more(loss: list[float], is_log: bool) -> None:
    paths = loss_paths.loss_paths({"loss_paths": {"indices": [7], "n_starts": 1, "loss": [[loss]]}})
    assert paths is not None
    assert paths.is_log == is_log
    assert "image 7" in loss_paths.figure(paths)


def test_loss_paths_of_many_images_are_cut_and_of_none_are_none() -> None:
    many = {"indices": list(range(20)), "n_starts": 1, "loss": [[[1.0, 2.0]]] * 20}
    paths = loss_paths.loss_paths({"loss_paths": many})
    assert paths is not None
    assert paths.indices == tuple(range(9))
    assert loss_paths.loss_paths({"loss_paths": {"indices": [], "n_starts": 20, "loss": []}}) is None


def test_no_margin_bar_holds_both_sides_of_the_boundary_and_outliers_do_not_flatten_it() -> None:
    table = verdicts(
        *(broken("A", margin=-0.01 * k) for k in range(1, 300)),
        *({"verdict": "unresolved", "margin": 0.01 * k} for k in range(1, 300)),
        {"verdict": "unresolved", "margin": 1e6},
        {"verdict": "misclassified", "margin": math.inf},
    )
    low, high = margins._span(table.filter(pl.col("margin").is_finite())["margin"].to_numpy())
    edges = margins._edges(low, high)
    assert 0 in edges
    assert edges[0] <= low < high <= edges[-1] + 1e-9
    assert high < 50
    figure = margins.figure(table)
    assert figure is not None
    assert "Medians: broken −1.5, unresolved 1.5." in figure


def test_margins_that_are_all_equal_or_unknown() -> None:
    assert margins.figure(verdicts({"verdict": "unresolved", "margin": 0.0})) is not None
    assert margins.figure(verdicts({"verdict": "unresolved", "margin": math.nan})) is None


def test_a_training_log_is_drawn_in_part_where_it_is_partial() -> None:
    steps = [{"kind": "train", "step": s, "epoch": s / 10, "loss": 1 / (s + 1)} for s in range(2000)]
    check = {"kind": "check", "step": 10, "epoch": 1.0, "clean_accuracy": 0.9, "one_step_accuracy": None}
    assert training.figure([]) is None
    drawn = training.figure(steps)
    assert drawn is not None
    assert "held-out accuracy" not in drawn
    assert len(drawn) < 60_000
    checked = training.figure([check])
    assert checked is not None
    assert "Training curve: clean accuracy 90.0% at the end." in checked
    assert training.alarm([*steps, check]) is None
    assert training.alarm([check, check | {"epoch": 2.0, "catastrophic_overfitting": True}]) == 2.0


def test_the_confusion_counts_every_broken_image_once() -> None:
    table = verdicts(broken("A"), broken("A"), broken("B", label=2), {"verdict": "misclassified", "label": 1})
    found = confusion.confusion(table, ("a", "b", "c"))
    assert found is not None
    assert found.matrix == ((0, 2, 0), (0, 0, 0), (0, 1, 0))
    assert found.pairs == (("a", "b", 2), ("c", "b", 1))
    assert confusion.confusion(table.clear(), ("a", "b")) is None


def test_the_confusion_of_many_classes_is_cut_to_the_top_pairs() -> None:
    rows = [broken("A", label=k, adversarial_prediction=k + 1) for k in range(40) for _ in range(k % 3 + 1)]
    found = confusion.confusion(verdicts(*rows), [f"class {k}" for k in range(40)])
    assert found is not None
    assert found.matrix is None
    assert len(found.pairs) == 15
    assert found.pairs[0] == ("class 2", "class 3", 3)
    assert found.left_out == 25
    assert found.pairs[-1][2] >= 2


def test_an_attack_counts_what_it_breaks_of_what_others_broke() -> None:
    table = verdicts(broken("A", broken_by=["A"]), broken("A", broken_by=["A", "B"]), broken("B", broken_by=["B"]))
    attacks = [
        {"name": "A", "tried": 9, "broke": 2, "alone": 1, "seconds": 1.0},
        {"name": "B", "tried": 7, "broke": 1, "alone": 1, "seconds": 2.0},
    ]
    first, second = stage_rows({"attacks": attacks}, table)
    assert (first.breaks, first.bar, first.bar_alone) == (2, 100, 50)
    assert (second.breaks, second.bar, second.bar_alone) == (2, 50, 50)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.0%"), (1, "100.0%"), (0.91, "91.0%"), (0.9999, "99.99%"), (1e-5, "0.001%"), (0.5, "50.0%")],
)
def test_nearly_all_is_not_printed_as_all(share: float, text: str) -> None:
    assert words.percent(share) == text


def test_durations_rates_and_names() -> None:
    assert [words.seconds(s) for s in (0, 0.012, 61.2, 120, 7260)] == [
        "0.0 s",
        "0.012 s",
        "61.2 s",
        "2 min 0 s",
        "2 h 1 min",
    ]
    assert [words.rate(10, s) for s in (0, 2, 40)] == ["–", "5", "0.25"]
    assert words.rate(0, 5) == "0"
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.breakable("a/<b>.py:c") == "a/<wbr>&lt;b&gt;.<wbr>py:<wbr>c"


def test_settings_are_flattened_and_none_is_left_out() -> None:
    rows = dict(settings.flatten({"a": {"b": 1, "c": None}, "d": [1, 2], "e": [{"f": True}], "g": list(range(30))}))
    assert rows["a.b"] == "1"
    assert rows["a.c"] == "none"
    assert rows["d"] == "1, 2"
    assert rows["e.0.f"] == "true"
    assert rows["g"].endswith("19 … (30 in all)")
    nested = {"kind": "Restarts", "attack": {"kind": "PGD", "n_steps": 3}, "n_restarts": 5}
    assert settings.described(nested) == "Restarts (PGD (n_steps 3), n_restarts 5)"
    assert settings.described({"kind": "Worst", "attacks": [{"kind": "A"}, {"kind": "B"}]}) == "Worst (A, B)"
