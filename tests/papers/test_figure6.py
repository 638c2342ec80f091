"""Figure 6: curves are what the distances say, each against closed forms or by hand, and its claims measured right."""

import math
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
import torch
from grid_toys import network, toy_run
from paper_toys import linear

from casemate import attacks, data
from casemate.gradients import Engine
from casemate.papers.evaluation import Accuracy, Evaluation
from casemate.papers.item import Item, Outcome, Row
from casemate.papers.madry2018 import figure6, figure6_claims
from casemate.papers.madry2018 import figure6_curves as curves
from casemate.papers.madry2018.figure6 import CIFAR10, MNIST, STUDIES
from casemate.papers.madry2018.figure6_claims import Facts
from casemate.papers.madry2018.figure6_curves import (
    ALONE,
    DDN,
    HOPSKIPJUMP,
    IN_L2,
    IN_LINF,
    LEAST,
    PGD,
    Found,
    Sweep,
    walk_of,
)  # fmt: skip
from casemate.papers.madry2018.items import MADRY2018
from casemate.papers.madry2018.pair import NATURAL
from casemate.threat import Linf

N = 6
INF = math.inf


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """The item on networks of nearest means, whose gradients hide nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure6.pair, "at_hand", lambda name: False)
        patch.setitem(figure6.N_IMAGES["mnist"], "small", N)
        patch.setattr(curves, "STEPS", (10, 20, 40))
        patch.setattr(curves, "KEPT_EVERY", 10)
        patch.setattr(curves, "AT_EPS", attacks.PGD(n_steps=8))
        patch.setattr(curves, "JUMPS", {"small": attacks.HopSkipJump(n_steps=2)})
        patch.setattr(curves, "GRADIENTS", attacks.DDN(n_steps=100))
        run, _ = toy_run()
        return figure6.make(run)


def two_classes() -> tuple[Evaluation, Engine, torch.Tensor]:
    """Grey images on both sides of a plane, the last misclassified; the normal of the plane."""
    weights = torch.randn(1, 1, 28, 28)
    weights -= weights.mean()
    normal = weights / weights.norm()
    offsets = torch.tensor([0.4, -0.8, 1.2, 0.5]).view(-1, 1, 1, 1)
    y = torch.tensor([1, 0, 1, 0])
    return Evaluation(Linf(0.1), 0.5 + offsets * normal, y, 0), Engine(linear(weights.flatten())), normal


def test_pgd_breaks_an_image_from_the_distance_of_the_plane_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "AT_EPS", attacks.PGD(n_steps=10, loss="margin", random_start=False))
    judged, engine, normal = two_classes()
    swept = curves.sweep(engine, judged, "l2", (0.0, 0.3, 0.5, 1.0, 1.5))
    expected = [[False, False, True, True, True], [False, False, False, True, True], [False] * 4 + [True], [True] * 5]
    assert swept.broken.T.tolist() == expected
    found = swept.found()
    assert found.radius.tolist() == [0.5, 1.0, 1.5, 0.0]
    assert (found.distance[:3] >= torch.tensor([0.4, 0.8, 1.2]) - 1e-6).all()
    assert (found.distance <= found.radius + 1e-6).all()
    # In linf the plane is |offset| / |normal|_1 away.
    away = (torch.tensor([0.4, 0.8, 1.2]) / normal.abs().sum()).tolist()
    grid = (0.0, *sorted(factor * value for value in away for factor in (0.98, 1.02)))
    found = curves.sweep(engine, judged, "linf", grid).found()
    assert found.radius.tolist() == pytest.approx([*(1.02 * value for value in away), 0.0])


def test_what_is_broken_at_one_eps_is_broken_at_every_larger_one() -> None:
    broken = torch.tensor([[0, 0, 0, 1], [1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 0, 1]]).bool()
    distance = torch.tensor([0.08, INF, 0.15, 0.0], dtype=torch.float64)
    swept = Sweep((0.0, 0.1, 0.2, 0.3), broken, distance)
    found = swept.found()
    assert found.radius.tolist() == [0.1, INF, 0.2, 0.0]
    assert [share.right for share in found.left(swept.grid)] == [3, 2, 1, 1]
    # By itself, the attack at 0.2 misses the first image again, and that at 0.3 the third.
    assert [share.right for share in swept.alone()] == [3, 2, 2, 2]


def test_the_least_is_that_of_each_image() -> None:
    first, second = (torch.tensor(values, dtype=torch.float64) for values in ([1.0, 3.0, INF], [2.0, 2.5, INF]))
    found = curves.least([Found(first + 1, first), Found(second, second)])
    assert found.distance.tolist() == found.radius.tolist() == [1.0, 2.5, INF]


def test_the_walk_is_kept_at_its_start_and_every_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "KEPT_EVERY", 2)
    frame = curves.walk_frame(torch.tensor([[9.0, 8.0], [7.0, 6.0], [5.0, 4.0]], dtype=torch.float64))
    assert frame.rows() == [(0, 0, 9.0), (0, 1, 8.0), (2, 0, 5.0), (2, 1, 4.0)]


def test_every_curve_is_what_the_distances_leave(outcome: Outcome) -> None:
    accuracies, distances = outcome.data["accuracies"], outcome.data["distances"]
    assert accuracies.select("network", "norm", "attack", "eps").is_unique().all()
    for row in accuracies.filter(pl.col("attack") != ALONE).iter_rows(named=True):
        own = distances.filter(
            (pl.col("network") == row["network"])
            & (pl.col("norm") == row["norm"])
            & (pl.col("attack") == row["attack"])
        )
        assert len(own) == row["n"] == N
        assert row["right"] == (own["radius"] > row["eps"]).sum()
    networks = {NATURAL, IN_LINF, IN_L2}
    assert set(accuracies["network"]) == networks
    l2 = {PGD, *(walk_of(n_steps) for n_steps in (10, 20, 40)), HOPSKIPJUMP, DDN, LEAST}
    assert set(distances.filter(pl.col("norm") == "l2")["attack"]) == l2
    assert set(distances.filter(pl.col("norm") == "linf")["attack"]) == {PGD}


def test_the_distances_are_those_of_the_nearest_other_mean(outcome: Outcome) -> None:
    digits = data.load("digits-sample", "test", limit=N)
    for name, recipe in figure6.STUDIES[0].recipes.items():
        layer = network(recipe).model[1]  # type: ignore[index]
        logits = layer(digits.images.flatten(1)).double()
        gaps = logits.gather(1, digits.labels[:, None]) - logits
        normals = (layer.weight[digits.labels][:, None] - layer.weight).double().norm(dim=2)
        known = (gaps / normals).scatter(1, digits.labels[:, None], INF).amin(dim=1).clamp(min=0)
        own = (pl.col("network") == name) & (pl.col("norm") == "l2")
        for attack in (DDN, LEAST):
            found = outcome.data["distances"].filter(own & (pl.col("attack") == attack))["distance"].to_torch()
            # The box may only lengthen what it is in the way of.
            assert (found >= known - 1e-5).all()
            assert ((found == 0) == (known == 0)).all()
        assert found[known > 0].median() < 2 * known[known > 0].median()


def test_more_steps_and_all_attacks_together_are_never_worse(outcome: Outcome) -> None:
    wide = (
        outcome.data["distances"]
        .filter(pl.col("norm") == "l2")
        .pivot("attack", index=["network", "image"], values="distance")
    )
    assert len(wide) == 3 * N
    assert (wide[walk_of(10)] >= wide[walk_of(20)]).all()
    assert (wide[walk_of(20)] >= wide[walk_of(40)]).all()
    for attack in (PGD, walk_of(40), HOPSKIPJUMP, DDN):
        assert (wide[LEAST] <= wide[attack]).all()
    ends = outcome.data["walks"].filter(pl.col("step") == 40).sort("network", "image")["distance"]
    assert ends.to_list() == wide.sort("network", "image")[walk_of(40)].to_list()


def test_the_item_has_a_figure_its_data_and_rows(outcome: Outcome) -> None:
    figure = outcome.figures["mnist"]
    assert len(figure.axes) == 2 + 3
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    facts = " ".join(texts).replace("\n", " ")
    assert "SMALL SETTING" in facts
    assert f"n = first {N} test images" in facts
    assert [opened.name for opened in outcome.networks] == [
        "mnist-natural-small", "mnist-pgd-small", "mnist-pgd-l2-small",
    ]  # fmt: skip
    (absent,) = [row for row in outcome.rows if row.item == "CIFAR-10"]
    assert "casemate data cifar10" in absent.note
    drawn = figure.axes[0].lines[1].get_ydata()
    own = (pl.col("network") == IN_LINF) & (pl.col("norm") == "linf") & (pl.col("attack") == PGD)
    shares = outcome.data["accuracies"].filter(own).sort("eps")["accuracy"]
    assert list(drawn) == pytest.approx(shares.to_list())


GRIDS = {"linf": (0.0, 0.1, 0.3, 0.35, 0.4), "l2": (0.0, 1.0, 2.0, 3.0, 4.5)}
IN_L2_BY = (PGD, ALONE, walk_of(2000), walk_of(4000), walk_of(8000), HOPSKIPJUMP, DDN, LEAST)
BY = {"linf": (PGD, ALONE), "l2": IN_L2_BY}


def fabricated(
    left: dict[tuple[str, str, str], list[int]], medians: dict[tuple[str, str], float], eps: float = 0.3
) -> Facts:
    """Of 1,000 images, what each attack leaves: 500 at every eps where not given; distances in l2 of 1 likewise."""
    accuracies: list[dict[str, Any]] = []
    distances: list[dict[str, Any]] = []
    for name in (NATURAL, IN_LINF, IN_L2):
        for norm, grid in GRIDS.items():
            for attack in BY[norm]:
                labels = {"network": name, "norm": norm, "attack": attack}
                shares = left.get((name, norm, attack), [500] * len(grid))
                accuracies += [
                    {**labels, "eps": radius, **Accuracy(right, 1000).columns()}
                    for radius, right in zip(grid, shares, strict=True)
                ]
                distances.append({**labels, "distance": medians.get((name, attack), 1.0)})
    return Facts(MNIST, Linf(eps), {"accuracies": pl.DataFrame(accuracies), "distances": pl.DataFrame(distances)})


def rows_of(facts: Facts) -> dict[str, Row]:
    return {row.item.removeprefix("MNIST, "): row for row in figure6_claims.rows(facts)}


def test_a_sharp_drop_past_the_eps_of_training_is_told_from_a_slow_one() -> None:
    below, past = (
        "linf-trained: accuracy under PGD at linf 0, 0.1, 0.3",
        "linf-trained: accuracy under PGD at linf:0.3 and just past it, at 0.35",
    )
    sharp = rows_of(fabricated({(IN_LINF, "linf", attack): [980, 950, 900, 200, 0] for attack in (PGD, ALONE)}, {}))
    assert sharp[below].ours == "98.0, 95.0, 90.0"
    assert sharp[below].note.startswith("holds, each eps by itself")
    assert sharp[past].ours == "90.0 (88.0 to 91.8) and 20.0 (17.6 to 22.6)"
    assert sharp[past].note == "holds: 8.0 points are lost up to 0.3, 70.0 from there"
    slow = rows_of(fabricated({(IN_LINF, "linf", PGD): [980, 800, 500, 400, 300]}, {}))
    assert slow[past].note.startswith("does not hold: 48.0 points are lost")
    flat = rows_of(fabricated({(IN_LINF, "linf", PGD): [980, 960, 950, 940, 0]}, {}))
    assert flat[past].note.startswith("too close for so few images")
    masked = rows_of(fabricated({(IN_LINF, "linf", ALONE): [980, 890, 900, 200, 0]}, {}))
    assert masked[below].note.startswith("does not hold")


def test_an_overestimate_by_pgd_is_found_where_it_is_largest_and_where_the_paper_names_it() -> None:
    left = {
        (IN_LINF, "l2", PGD): [980, 960, 900, 700, 300],
        (IN_LINF, "l2", walk_of(2000)): [980, 950, 150, 20, 0],
        (IN_LINF, "l2", LEAST): [980, 900, 140, 10, 0],
    }
    rows = rows_of(fabricated(left, {}))
    gap = rows["linf-trained: the l2 eps at which PGD overestimates the accuracy most"]
    assert gap.ours.startswith("at 2: PGD 90.0 (88.0 to 91.8), Boundary, 2,000 steps 15.0 ")
    near = "that PGD overestimates: holds; that Boundary, 2,000 steps, is near the least: "
    assert gap.note.startswith(near + "not contradicted; ")
    assert gap.note.endswith("Boundary, 4,000 steps 50.0; Boundary, 8,000 steps 50.0; HopSkipJump 50.0; DDN 50.0")
    named = rows["linf-trained: accuracy at l2:4.5 by decisions alone and by all attacks"]
    assert named.ours.startswith("PGD 30.0 (27.2 to 32.9), ")
    assert rows["linf-trained: accuracy under PGD at l2:4.5"].published == "good (ICLR version; withdrawn in v4)"
    # Decisions that have not converged overestimate as well.
    left[IN_LINF, "l2", walk_of(2000)] = left[IN_LINF, "l2", PGD]
    gap = rows_of(fabricated(left, {}))["linf-trained: the l2 eps at which PGD overestimates the accuracy most"]
    assert gap.note.startswith(near + "does not hold; ")
    none = rows_of(fabricated({}, {}))["natural: the l2 eps at which PGD overestimates the accuracy most"]
    assert (none.published, none.ours, none.note) == ("no claim", "none of those tried", "n = 1000")
    left[IN_LINF, "l2", PGD] = [980, 910, 150, 12, 0]
    few = rows_of(fabricated(left, {}))["linf-trained: the l2 eps at which PGD overestimates the accuracy most"]
    assert few.ours.startswith("at 1: PGD 91.0 ")
    assert few.note.startswith("that PGD overestimates: too close for so few images; ")


def test_what_pgd_misses_at_a_larger_eps_is_counted() -> None:
    left = {(IN_LINF, "l2", PGD): [900, 800, 700, 600, 500], (IN_LINF, "l2", ALONE): [900, 800, 720, 655, 540]}
    row = rows_of(fabricated(left, {}))["MNIST: images that PGD breaks at one l2 eps and misses at a larger, at most"]
    assert row.ours == "natural 0, linf-trained 55 (at 3), l2-trained 0"


def test_convergence_is_measured_by_what_more_steps_change() -> None:
    medians = {(NATURAL, walk_of(2000)): 4.0, (NATURAL, walk_of(4000)): 3.0, (NATURAL, walk_of(8000)): 2.7}
    rows = rows_of(fabricated({}, medians | {(IN_L2, walk_of(2000)): INF}))
    item = ": median l2 distance by the Boundary attack after 2,000, 4,000, 8,000 steps"
    natural = rows[NATURAL + item]
    assert natural.ours == "4, 3, 2.7"
    assert natural.note.startswith("not converged (asked here: under 2%): the steps added change it by -25.0%, -10.0%")
    assert rows[IN_LINF + item].note.startswith("converged")
    assert "nan" in rows[IN_L2 + item].note


def test_published_numbers_of_others_stand_beside_the_attack_that_they_are_about() -> None:
    left = {(IN_LINF, "l2", LEAST): [900, 500, 100, 0, 0], (IN_L2, "linf", PGD): [900, 100, 5, 0, 0]}
    rows = rows_of(fabricated(left, {}))
    found = {item: (row.published, row.ours.partition(" ")[0]) for item, row in rows.items() if "Maini" in row.note}
    assert found == {
        "linf-trained: accuracy at linf:0.3": ("90.3", "50.0"),
        "linf-trained: accuracy at l2:2": ("13.6", "10.0"),
        "l2-trained: accuracy at linf:0.3": ("0.4", "0.5"),
        "l2-trained: accuracy at l2:2": ("69.2", "50.0"),
    }


def test_claims_about_mnist_are_not_made_of_cifar10() -> None:
    facts = fabricated({}, {})
    rows = figure6_claims.rows(replace(facts, dataset=CIFAR10))
    assert not any("Maini" in row.note or "l2:4.5" in row.item for row in rows)
    assert {row.published for row in rows if "overestimates" in row.item} == {"no claim"}


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.dataset.name)
def test_the_axes_are_those_of_the_paper_and_have_the_eps_that_are_spoken_of(study: figure6.Study) -> None:
    ends = {"mnist": (0.5, 8.0), "cifar10": (30 / 255, 100 / 255)}[study.dataset.name]
    for norm, end in zip(("linf", "l2"), ends, strict=True):
        grid = study.grids[norm]
        assert grid[0] == 0
        assert grid[-1] == end
        assert list(grid) == sorted(grid)
    if study.dataset == MNIST:
        assert {0.3, 0.35} <= set(study.grids["linf"])
        assert {2.0, figure6_claims.NAMED} <= set(study.grids["l2"])
    else:
        assert 8 / 255 in study.grids["linf"]
    for recipe in study.recipes.values():
        for setting in ("small", "full"):
            assert (MADRY2018.recipes / f"{recipe}-{setting}.yaml").is_file()


def test_the_item_is_listed() -> None:
    assert any(isinstance(item, Item) and item.name == "figure6" for item in MADRY2018.items)
