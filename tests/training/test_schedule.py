import pytest

from casemate.training.schedule import Shape, rate


@pytest.mark.parametrize(
    ("shape", "points"),
    [
        ("constant", {0: 1, 0.5: 1, 0.99: 1}),
        ("linear", {0: 1, 0.25: 0.75, 0.9: 0.1}),
        ("cosine", {0: 1, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1: 0}),
        ("steps", {0: 1, 0.499: 1, 0.5: 0.1, 0.749: 0.1, 0.75: 0.01, 0.99: 0.01}),
        ("cyclic", {0: 0, 0.2: 0.5, 0.4: 1, 0.7: 0.5, 1: 0}),
        ("flat-linear", {0: 1, 0.49: 1, 0.5: 1, 0.75: 0.5, 1: 0}),
        ("early-steps", {0: 1, 0.24: 1, 0.25: 0.1, 0.41: 0.1, 0.42: 0.01, 0.99: 0.01}),
        ("late-steps", {0: 1, 0.71: 1, 0.72: 0.2, 0.85: 0.2, 0.86: 0.04, 0.99: 0.04}),
    ],
)
def test_shapes_at_points_worked_out_by_hand(shape: Shape, points: dict[float, float]) -> None:
    for progress, expected in points.items():
        assert rate(shape, progress) == pytest.approx(expected, abs=1e-12), progress


def test_warm_up_rises_from_zero_and_then_leaves_the_shape_alone() -> None:
    assert [rate("constant", progress, 0.2) for progress in (0, 0.05, 0.1, 0.2, 0.9)] == pytest.approx(
        [0, 0.25, 0.5, 1, 1]
    )
    assert rate("linear", 0.5, 0.2) == rate("linear", 0.5)
