import polars as pl
import pytest
import torch
from audit_toys import STAGES, THREAT, Moves, Returns, convolutional, dataset, images, linear

from casemate.attacks import PGD, MultiTarget
from casemate.audit import Stage
from casemate.audit.cascade import in_turn, run_block
from casemate.errors import CasemateError
from casemate.gradients import Engine
from casemate.threat import Linf

BALL = Linf(0.1)


class Brightness(torch.nn.Module):
    """Two classes: class 1 where the mean of the image is above `level`; the margin is the distance in linf."""

    def __init__(self, level: float = 0.5) -> None:
        super().__init__()
        self.level = level

    def forward(self, x):
        above = x.mean(dim=(1, 2, 3)) - self.level
        return torch.stack([-above / 2, above / 2], dim=1)


def flat(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()


def block_of(stages, x, y, threat=BALL, **kwargs):
    return run_block(Engine(Brightness()), x, y, torch.arange(len(x)), threat, stages, 0, **kwargs)


def test_the_verdicts_of_planted_attacks():
    x, y = flat(0.45, 0.42, 0.3, 0.6), torch.tensor([0, 0, 0, 0])
    told = []
    block = block_of(
        [Stage("small", Moves(0.06)), Stage("large", Moves(0.1)), Stage("back", Moves(-0.1))],
        x,
        y,
        progress=lambda name, n: told.append((name, n)),
    )
    rows = block.verdicts()
    assert rows["verdict"].to_list() == ["broken", "broken", "unresolved", "misclassified"]
    assert rows["attack"].to_list() == ["small", "large", None, None]
    assert rows["broken_by"].to_list() == [["small", "large"], ["large"], [], []]
    assert rows["prediction"].to_list() == [0, 0, 0, 1]
    assert rows["adversarial_prediction"].to_list() == [1, 1, None, None]
    assert rows["distance"].to_list()[:2] == pytest.approx([0.06, 0.1])
    # The worst point found: its own for a broken image, the best of the three attacks for a standing one.
    assert rows["margin"].to_list() == pytest.approx([-0.01, -0.02, 0.1, -0.1], abs=1e-6)
    assert block.evidence()["index"].to_list() == [0, 1]
    # Each stage on what still stands; then the later ones on what is broken, and nothing on what is misclassified.
    broken = " on broken images"
    assert told == [("small", 3), ("large", 2), ("back", 1), ("large" + broken, 1), ("back" + broken, 2)]


def test_a_stage_for_margins_that_have_shrunk_runs_on_those_alone():
    """Margins of 0.2, 0.1 and 0.05, of which 0.06 is taken: 70%, 40% and less than nothing are left."""
    x, y, told = flat(0.3, 0.4, 0.45), torch.tensor([0, 0, 0]), []
    stages = [
        Stage("small", Moves(0.06)),
        Stage("near", Moves(0.08), within=0.5),
        Stage("nearer", Moves(0.09), within=0.1),
        Stage("back", Moves(-0.1)),
    ]
    block = block_of(stages, x, y, progress=lambda name, n: told.append((name, n)))
    broken = " on broken images"
    assert told == [
        ("small", 3), ("near", 1), ("back", 2), ("near" + broken, 1), ("nearer" + broken, 1), ("back" + broken, 1)
    ]  # fmt: skip
    assert block.verdicts()["broken_by"].to_list() == [[], [], ["small", "near", "nearer"]]
    assert block.verdicts()["margin"].to_list() == pytest.approx([0.14, 0.02, -0.01], abs=1e-6)
    left = list(in_turn(Engine(Brightness()), x, y, BALL, stages, 0))
    assert [int(standing.sum()) for standing in left] == [3, 2, 2, 2, 2]
    # What an image gets does not depend on the others.
    for at in range(3):
        alone = run_block(Engine(Brightness()), x[at : at + 1], y[:1], torch.tensor([at]), BALL, stages, 0)
        assert alone.verdicts().equals(block.verdicts()[at])


@pytest.mark.parametrize(
    ("attack", "complaint"),
    [
        (Moves(0.11), r"made of image 7 is 0\.1099.* away, outside linf:0\.1"),
        (Moves(float("nan")), "made of image 7 holds NaN"),
        (Returns(lambda x: x - 0.06), "made of image 7 runs from -0.01 to -0.01, outside"),
        (Returns(lambda x: x.double()), "returned torch.float64"),
        (Returns(lambda x: x[:, :, 1:]), r"returned torch.float32 \[1, 1, 3, 4\] on cpu, not torch"),
        (Returns(lambda x: None), "returned NoneType, not"),
        (Returns(lambda x: x @ x[0, 0, 0, :3]), "failed with RuntimeError"),
    ],
)
def test_an_attack_that_breaks_its_word_is_named(attack, complaint):
    stages, index = [Stage("planted", attack)], torch.tensor([7])
    with pytest.raises(CasemateError, match=f"the attack planted {complaint}"):
        run_block(Engine(Brightness()), flat(0.05), torch.tensor([0]), index, BALL, stages, 0)


def test_an_attack_that_claims_nothing_is_judged_by_the_model():
    block = block_of([Stage("idle", Moves(0.0))], flat(0.45), torch.tensor([0]))
    assert block.verdicts()["verdict"].to_list() == ["unresolved"]


def test_a_tie_is_decided_as_argmax_decides_it():
    # At 0.5 the logits are equal: class 0 is predicted, so label 0 is right and label 1 is not.
    block = block_of([Stage("idle", Moves(0.0))], flat(0.5, 0.5), torch.tensor([0, 1]))
    assert block.verdicts()["verdict"].to_list() == ["unresolved", "misclassified"]


def test_an_attack_may_write_into_what_it_is_given():
    x = flat(0.45, 0.45)
    block = block_of(
        [Stage("in place", Returns(lambda x: x.add_(0.1))), Stage("idle", Moves(0.0))], x, torch.zeros(2).long()
    )
    assert torch.equal(x, flat(0.45, 0.45))
    assert block.verdicts()["distance"].to_list() == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("model", [linear(), convolutional()])
def test_what_an_image_gets_does_not_depend_on_its_company(model):
    data = dataset(model)
    index = torch.arange(len(data)) + 100
    engine = Engine(model)
    whole = run_block(engine, data.images, data.labels, index, THREAT, STAGES, 0)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(3))
    parts = [
        run_block(Engine(model, batch_size=8), data.images[at], data.labels[at], index[at], THREAT, STAGES, 0)
        for at in order.split(11)
    ]
    rows = whole.verdicts()
    assert rows["verdict"].n_unique() == 3
    assert rows.equals(pl.concat([part.verdicts() for part in parts]).sort("index"))


def test_the_seed_matters():
    model = convolutional()
    data = dataset(model)
    index = torch.arange(len(data))
    blocks = [run_block(Engine(model), data.images, data.labels, index, THREAT, STAGES[1:], seed) for seed in (0, 1)]
    assert not blocks[0].evidence().equals(blocks[1].evidence())


@pytest.mark.parametrize("eps", [0.005, 0.01, 0.02])
def test_a_linear_classifier_is_broken_where_geometry_says_so(eps):
    """The distance to class j is (z_y - z_j) / |w_y - w_j|_1 as long as the box does not interfere."""
    model = linear()
    layer = model[1]
    x = images(300)
    with torch.no_grad():
        logits = model(x).double()
        y = logits.argmax(dim=1)
        gap = logits.gather(1, y[:, None]) - logits
        slope = (layer.weight[y][:, None] - layer.weight[None]).double().abs().sum(dim=2)
        distance = (gap / slope).scatter(1, y[:, None], torch.inf).amin(dim=1)
    stages = [Stage("PGD", PGD(n_steps=10, loss="margin")), Stage("targets", MultiTarget(PGD(10, loss="margin"), 3))]
    rows = run_block(Engine(model), x, y, torch.arange(300), Linf(eps), stages, 0).verdicts()
    broken = torch.tensor([verdict == "broken" for verdict in rows["verdict"]])
    assert broken.any()
    assert not broken.all()
    assert not broken[distance > eps * 1.0001].any()
    assert broken[distance < eps * 0.99].all()
