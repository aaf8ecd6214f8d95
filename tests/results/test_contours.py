"""Level lines lie where the loss has that value; steps begin and end where they should."""

from __future__ import annotations

import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.results.contours import ellipse
from nnopt_lib.results.layout import draw
from tests.results.kinds import CONTOURS


def drawn(rows):
    options = {"x_label": "w1", "y_label": "w2"}
    return draw({"kind": "contours", "rows": rows, "options": options}, "screen", None).axes[0]


@pytest.mark.parametrize(
    "curvature", [[[1.0, 0.0], [0.0, 4.0]], [[1.0, 1.6], [1.6, 4.0]], [[3, -1], [-1, 0.5]]]
)
def test_the_loss_is_the_same_all_along_a_level_line(curvature):
    line = ellipse(curvature, (1.5, -1.0), loss=0.7, points=37)
    away = np.array([line["x"], line["y"]]).T - (1.5, -1.0)
    losses = 0.5 * np.einsum("pi,ij,pj->p", away, np.array(curvature), away)
    assert losses == pytest.approx(np.full(38, 0.7))
    assert (line["x"][0], line["y"][0]) == pytest.approx((line["x"][-1], line["y"][-1]))


def test_a_curvature_without_a_minimum_has_no_ellipses():
    with pytest.raises(NnoptError) as refused:
        ellipse([[1.0, 2.0], [2.0, 1.0]], (0, 0), loss=1)
    expected = "level lines are ellipses where the curvature is positive; received [[1.0, 2.0], [2.0, 1.0]]."
    assert str(refused.value) == expected


def test_every_step_is_drawn_with_its_end_and_its_name():
    axes = drawn(CONTOURS)
    lines = [line.get_xydata().tolist() for line in axes.lines]
    assert [[0.5, 0.5], [0.0, 0.5], [0.0, 0.9]] in lines and [[0.0, 0.9]] in lines and [[0.5, 0.5]] in lines
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "along the axis",
        "down the valley",
    ]
    assert axes.get_aspect() == 1


def test_contours_without_levels_are_refused():
    with pytest.raises(NnoptError) as refused:
        drawn(CONTOURS[1:])
    assert str(refused.value) == "contours need rows of kind 'level' and of kind 'step'; received 0 and 2."
