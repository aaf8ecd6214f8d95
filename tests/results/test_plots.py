"""Every mark of each kind of figure is drawn from the rows."""

from __future__ import annotations

import pytest
from matplotlib.colors import to_rgb

from nnopt_lib.results.layout import draw
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


def drawn_curves(rows, **options):
    """The axes of curves of ``value`` against ``width`` with these rows and options."""
    options = {"x": "width", "y": "value", "x_label": "width", "y_label": "value", **options}
    return draw({"kind": "curves", "rows": rows, "options": options}, "screen", None).axes[0]


def outline(area):
    """The corners of a filled area, each once."""
    return {tuple(corner) for path in area.get_paths() for corner in path.vertices.tolist()}


UNEVEN = [  # neither bound is as far from the value as the other, and the rows are not in order
    {"width": 3, "value": 5.0, "low": 4.0, "high": 9.0, "series": "a"},
    {"width": 1, "value": 2.0, "low": 0.5, "high": 3.0, "series": "a"},
    {"width": 1, "value": 20.0, "low": 19.5, "high": 21.0, "series": "b"},
    {"width": 3, "value": 22.0, "low": 20.0, "high": 22.5, "series": "b"},
]


def test_bands_of_curves_reach_from_low_to_high_of_their_own_series():
    axes = drawn_curves(UNEVEN, low="low", high="high", series="series")
    assert [outline(area) for area in axes.collections] == [
        {(1, 0.5), (1, 3.0), (3, 4.0), (3, 9.0)},
        {(1, 19.5), (1, 21.0), (3, 20.0), (3, 22.5)},
    ]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 2], [3, 5]], [[1, 20], [3, 22]]]
    assert [area.get_facecolor()[0][:3].tolist() for area in axes.collections] == [
        pytest.approx(to_rgb(line.get_color())) for line in axes.lines
    ]


def test_steps_and_their_bands_change_halfway_between_two_points():
    rows = [row for row in UNEVEN if row["series"] == "a"]
    axes = drawn_curves(rows, low="low", high="high", steps=True)
    assert {(2, 0.5), (2, 4.0), (2, 3.0), (2, 9.0)} <= outline(axes.collections[0])
    assert [line.get_drawstyle() for line in axes.lines] == ["steps-mid"]
    axes = drawn_curves(rows, low="low", high="high")
    assert not {x for x, _ in outline(axes.collections[0])} - {1, 3}
    assert [line.get_drawstyle() for line in axes.lines] == ["default"]


def test_curves_without_bounds_have_no_band_and_begin_at_zero_only_if_asked():
    assert not drawn_curves(UNEVEN[:2]).collections
    assert (
        drawn_curves(UNEVEN[:2]).get_ylim()[0] > 0 == drawn_curves(UNEVEN[:2], y_from_zero=True).get_ylim()[0]
    )


def test_a_printed_number_has_its_band_on_both_sides_around_itself():
    rows = [
        {"label": "a", "mean": 0.5, "low": 0.25, "high": 1.0, "printed": 2.0, "half": 0.5},
        {"label": "b", "mean": 0.5, "low": 0.25, "high": 1.0, "printed": 3.0, "half": None},
        {"label": "c", "mean": 0.5, "low": 0.25, "high": 1.0, "printed": None, "half": 0.5},
    ]
    options = {"x_label": "x", "mark": "printed", "mark_label": "printed", "band": "half"}
    axes = draw({"kind": "intervals", "rows": rows, "options": options}, "screen", None).axes[0]
    lines = [line.get_xydata().tolist() for line in axes.lines]
    ours = [line for y in range(3) for line in ([[0.25, y], [1.0, y]], [[0.5, y]])]
    theirs = [[[1.5, 0], [2.5, 0]], [[2.0, 0]], [[3.0, 1]]]
    assert sorted(lines) == sorted(ours + theirs)


def test_bars_are_as_long_as_the_fields_say():
    axes, _ = axes_and_lines("bars")
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert widths == [[0.2, 0.8], [0.7, 0.3]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["parameters", "MACs"]
    bars = [bar for group in axes.containers for bar in group]
    assert {bar.get_x() for bar in bars} == {0}  # from zero, or their lengths would mean nothing
    middles = [[bar.get_y() + bar.get_height() / 2 for bar in group] for group in axes.containers]
    assert middles == [
        pytest.approx([-0.2, 0.8]),
        pytest.approx([0.2, 1.2]),
    ]  # side by side, not on each other
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["first", "second"]


def test_stacked_bars_begin_where_the_one_before_ends():
    rows = [{"label": "first", "a": 0.2, "b": 0.7}, {"label": "second", "a": 0.8, "b": 0.3}]
    options = {"fields": {"a": "values", "b": "positions"}, "x_label": "kB", "stacked": True}
    axes = draw({"kind": "bars", "rows": rows, "options": options}, "screen", None).axes[0]
    starts = [[bar.get_x() for bar in bars] for bars in axes.containers]
    assert starts == [[0, 0], [0.2, 0.8]]
    assert [[bar.get_width() for bar in bars] for bars in axes.containers] == [[0.2, 0.8], [0.7, 0.3]]
    middles = [bar.get_y() + bar.get_height() / 2 for bars in axes.containers for bar in bars]
    assert middles == pytest.approx([0, 1, 0, 1])  # one line for each row


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
