"""Table 1: the numbers are those of the defended classifiers, and a defence is broken when its surrogate is used."""

from pathlib import Path

import polars as pl
import pytest
import torch
from matplotlib.figure import Figure
from paper_toys import RECIPE

from casemate import models
from casemate.audit.remedies.undeclared import without_surrogates
from casemate.defences import BitDepth, Thermometer
from casemate.gradients import Engine
from casemate.papers.athalye2018 import published, table1
from casemate.papers.athalye2018.defended import Bench, Defence, bench, second
from casemate.papers.athalye2018.items import ATHALYE2018
from casemate.papers.athalye2018.lid_detector import detected
from casemate.papers.evaluation import Evaluation, evaluation
from casemate.papers.item import Run
from casemate.papers.networks import Networks
from casemate.training import recipe as recipes
from casemate.training.distilled import Distilled

N = 16
KINDS = {"natural": "natural", "distilled": "distilled, temperature: 10"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("athalye")
    for name, objective in KINDS.items():
        text = RECIPE.format(objective=f"{{kind: {objective}}}").replace("small-cnn", "fast-at")
        (folder / f"mnist-{name}-small.yaml").write_text(text)
    return bench(Run("small", 0, Networks(folder, folder / "networks", "small").open), n_train=1200)


@pytest.fixture(scope="module")
def judged(parts: Bench) -> Evaluation:
    images = evaluation(parts.natural, N, 0)
    return Evaluation(table1.THREAT, images.x, images.y, 0)


def test_bit_depth_looks_well_to_who_does_not_know_it_and_falls_to_who_does(parts: Bench, judged: Evaluation) -> None:
    defence = Defence("Bit depth", lambda b: b.before(BitDepth()), "unaware", published.TRANSFORMATIONS, n_images=N)
    rows = {row["kind"]: row for row in table1.measured(defence, parts, judged).iter_rows(named=True)}
    logits = Engine(parts.before(BitDepth())).logits(judged.x)
    assert rows["clean"]["right"] == int((logits.argmax(dim=1) == judged.y).sum())
    assert rows["adaptive"]["right"] < rows["naive"]["right"] <= rows["clean"]["right"]
    assert (rows["naive"]["published"], rows["adaptive"]["published"]) == (70, 0)


def test_every_surrogate_is_taken_away_in_a_copy_alone() -> None:
    model = torch.nn.Sequential(Thermometer(), models.fast_at(in_channels=16))
    plain = without_surrogates(model)
    assert not any(getattr(layer, "surrogate", None) for layer in plain.modules())
    assert callable(model[0].surrogate)
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(plain(x), model(x))


def test_the_second_network_starts_from_the_first(parts: Bench) -> None:
    student = second(parts, "mnist-distilled")
    first = parts.run.network("mnist-distilled")
    (folder,) = first.folder.parent.glob("mnist-distilled-second-small-*")
    assert str(first.folder) in (folder / "card.json").read_text()
    assert any(not torch.equal(a, b) for a, b in zip(student.parameters(), first.model.parameters(), strict=True))


def test_a_detector_stops_no_image_that_the_classifier_gets_wrong_unattacked(parts: Bench, judged: Evaluation) -> None:
    found = detected(parts, judged)
    right = Engine(parts.bare).logits(judged.x).argmax(dim=1) == judged.y
    for kind in (found.clean, found.naive, found.adaptive):
        assert not (kind & ~right).any()
    assert not (found.naive & ~found.clean).any()


def test_the_figure_shows_every_defence_and_the_rows_the_published_numbers(parts: Bench) -> None:
    standing = torch.tensor([True, False])
    frames = [
        table1._frame(name, known, {kind: standing for kind in table1.KINDS})
        for name, known in (("JPEG", published.TRANSFORMATIONS), ("Cascade training", published.CASCADE))
    ]
    table = pl.concat(frames)
    figure = table1.figure(table, parts.run, (parts.natural,))
    assert isinstance(figure, Figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["JPEG", "Cascade training"]
    row = table1._row(table, "Cascade training")
    assert row.published == "no accuracy claimed, 15 left (CIFAR-10, linf 0.015)"
    assert "adaptive 50.0 (1.3 to 98.7)" in row.ours


@pytest.mark.parametrize("path", sorted(ATHALYE2018.recipes.glob("mnist-*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_fits_its_data(path: Path) -> None:
    recipe = recipes.read(path)
    with torch.device("meta"):
        logits = models.build(recipe.model.name, **recipe.model.arguments)(torch.empty(2, 1, 28, 28))
    assert logits.shape == (2, 10)
    assert path.read_text().startswith("# ")
    assert recipe.threat == str(table1.THREAT)
    objective = recipe.build_objective()
    if isinstance(objective, Distilled):
        assert objective.temperature == 100
