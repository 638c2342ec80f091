"""The item on linf and l2 radii as a whole, on toys."""

import polars as pl
import pytest
from grid_toys import toy_run

from casemate.attacks import DDN, PGD, HopSkipJump
from casemate.papers.item import Outcome
from casemate.papers.madry2018 import norms
from casemate.papers.madry2018.items import MADRY2018
from casemate.papers.madry2018.norms_facts import EPS
from casemate.papers.madry2018.radii import MATCHES
from casemate.papers.networks import Variant

N = 8


@pytest.fixture(scope="module")
def made() -> tuple[Outcome, list[Variant]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(norms.N_IMAGES, "small", N)
        patch.setitem(norms.N_DECISIONS, "small", 2)
        patch.setattr(norms, "IN_LINF", PGD(n_steps=3))
        patch.setattr(norms, "IN_L2", PGD(n_steps=3))
        patch.setattr(norms, "N_RADII", 8)
        patch.setattr(norms, "NEAREST", DDN(n_steps=20))
        patch.setattr(norms, "DECISIONS", HopSkipJump(n_steps=2, n_starts=4))
        run, asked = toy_run()
        return norms.make(run), asked


def test_every_network_has_its_images_and_every_pair_its_row(made: tuple[Outcome, list[Variant]]) -> None:
    outcome, asked = made
    assert asked == list(norms.NETWORKS.values())
    assert len(outcome.networks) == 7
    assert len(outcome.data["distances"]) == 7 * N
    assert len(outcome.data["pairs"]) == 7 * len(EPS) * (len(MATCHES) + 1)
    assert outcome.data["distances"]["l2_HopSkipJump"].is_not_null().sum() == 7 * 2


def test_a_network_is_called_by_what_it_is_trained_on() -> None:
    for name, variant in norms.NETWORKS.items():
        own = {"mnist-natural": "natural", "mnist-pgd": "linf:0.3", "mnist-pgd-l2": "l2:2"}[variant.recipe]
        assert name == (variant.threat or own)


def test_the_figure_shows_what_the_frames_hold(made: tuple[Outcome, list[Variant]]) -> None:
    outcome, _ = made
    linf, l2, gains = outcome.figures["mnist"].axes
    frame = outcome.data["distances"]
    for axes, norm in ((linf, "linf"), (l2, "l2")):
        for line, name in zip(axes.lines, norms.NETWORKS, strict=False):
            own = frame.filter(pl.col("network") == name)
            assert line.get_label() == name
            assert line.get_xdata().tolist() == [0, *own[norm].sort()]
    looks = {(line.get_color(), line.get_linestyle()) for line in linf.lines[:7]}
    assert len(looks) == 7
    # The matched radii stand where they are, and the names are beside the dots.
    drawn = {round(line.get_xdata()[0], 9) for line in l2.lines[7:]}
    at = outcome.data["pairs"].filter(pl.col("eps") == 0.3)
    assert drawn == {round(radius, 9) for radius in at["radius"]}
    assert {text.get_text() for text in gains.texts} == set(norms.NETWORKS)
    dot = gains.lines[0]
    assert (dot.get_xdata(), dot.get_ydata()) == ([1.0], [1.0])


def test_the_answer_stands_first_and_below_the_figure(made: tuple[Outcome, list[Variant]]) -> None:
    outcome, _ = made
    texts = [text.get_text() for text in outcome.figures["mnist"].findobj(lambda artist: hasattr(artist, "get_text"))]
    footer = " ".join(texts).replace("\n", " ")
    assert outcome.rows[0].item.endswith("?")
    assert outcome.rows[0].ours in footer
    assert f"n = {N} test images" in footer
    assert "HopSkipJump for 2 of them" in footer
    assert "SMALL SETTING" in footer


def test_the_item_is_listed() -> None:
    assert any(item.name == "norms" for item in MADRY2018.items)
