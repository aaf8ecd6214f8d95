"""Every mark of each kind of figure is drawn from the rows."""

from __future__ import annotations

import pytest

from nnopt_lib.results.plots import draw
from tests.results.kinds import INTERVALS, KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_paper_style_has_small_text(kind):
    from matplotlib.text import Text

    drawn = draw({"kind": kind, "rows": KINDS[kind][0], "options": KINDS[kind][1]}, "paper", 3.3)
    sizes = [text.get_fontsize() for text in drawn.findobj(Text) if text.get_text()]
    assert sizes and 7 <= min(sizes) <= max(sizes) <= 9


def axes_and_lines(kind):
    """The axes of a figure of this kind, and the points of every line in it."""
    rows, options = KINDS[kind]
    axes = draw({"kind": kind, "rows": rows, "options": options}, "screen", None).axes[0]
    return axes, [line.get_xydata().tolist() for line in axes.lines]


def test_intervals_have_a_bar_a_dot_and_a_mark_for_each_row():
    axes, lines = axes_and_lines("intervals")
    assert [[0.93, 0.0], [0.95, 0.0]] in lines and [[0.94, 0.0]] in lines and [[0.97, 0.0]] in lines
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["network", "logistic"]


def test_curves_have_a_line_and_a_name_for_each_series():
    axes, lines = axes_and_lines("curves")
    assert [[1, 2], [2, 4], [4, 8], [8, 16]] in lines
    assert {text.get_text() for text in axes.texts} == {"batch 1", "batch 2", "batch 3"}


def test_bars_are_as_long_as_the_fields_say():
    axes, _ = axes_and_lines("bars")
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert widths == [[0.2, 0.8], [0.7, 0.3]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["parameters", "MACs"]


def test_a_graph_has_what_reads_what_on_the_left_and_what_is_coupled_on_the_right():
    axes, lines = axes_and_lines("graph")
    ends = [patch.get_path().vertices[[0, -1], 1].tolist() for patch in axes.patches]
    outward = [float(patch.get_path().vertices[1, 0]) for patch in axes.patches]
    assert ends == [[0, 1], [1, 2], [0, 2], [2, 3], [0, 1], [1, 2]]  # what reads what, then coupled
    assert [out == 0 for out in outward] == [True, True, False, True, False, False]
    assert outward[2] < 0 < min(outward[4:])
    assert [[0, 0], [0, 1], [0, 2]] in lines and [[0, 3]] in lines
    assert "8 nodes" in {text.get_text() for text in axes.texts}


def test_a_roofline_has_its_ridge_where_both_peaks_meet():
    _, lines = axes_and_lines("roofline")
    ridge = 20.0  # 2e11 operations over 1e10 bytes per second
    assert [[0.5, 4.0]] in lines and [[60.0, 150.0]] in lines
    roof = lines[0]
    assert roof[1] == [ridge, 200.0] and roof[0][1] / roof[0][0] == pytest.approx(10.0)


def test_a_paper_has_room_for_many_intervals():
    rows = [{**INTERVALS[0], "label": f"row {number}"} for number in range(24)]
    figure = {"kind": "intervals", "rows": rows, "options": {"x_label": "accuracy"}}
    drawn = draw(figure, "paper", 3.25)
    drawn.canvas.draw()
    assert drawn.get_size_inches()[1] < 6
    boxes = sorted((t.get_window_extent() for t in drawn.axes[0].get_yticklabels()), key=lambda box: box.y0)
    assert all(low.y1 < high.y0 for low, high in zip(boxes, boxes[1:], strict=False))
