"""What a plot shows is read as data, whoever drew it and however."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from nnopt_lib.checks import NnoptError
from nnopt_lib.course.labs.drawing import Drawing, drawing


def axes():
    return Figure().subplots()


def test_lines_points_and_bars_are_read_with_their_labels():
    ax = axes()
    ax.plot([1, 2], [3, 4], label="dense")
    ax.scatter([5], [6], label="one")
    ax.bar([0, 1], [7, 8], label="bars")
    ax.set(xlabel="width", ylabel="error", title="T", xscale="log")
    seen = drawing(ax.figure)
    assert [(s.kind, s.x.tolist(), s.y.tolist(), s.label) for s in seen.series] == [
        ("line", [1, 2], [3, 4], "dense"),
        ("points", [5], [6], "one"),
        ("bars", [0, 1], [7, 8], "bars"),
    ]
    assert (seen.xlabel, seen.ylabel, seen.title, seen.xscale, seen.yscale) == (
        "width",
        "error",
        "T",
        "log",
        "linear",
    )


def test_lying_bars_and_error_bars_give_their_values():
    ax = axes()
    ax.barh([0, 1], [7, 8])
    assert [(s.x.tolist(), s.y.tolist()) for s in drawing(ax).series] == [([0, 1], [7, 8])]
    ax = axes()
    ax.errorbar([1, 2], [3, 4], yerr=[0.5, 0.5])
    (series,) = [s for s in drawing(ax).series if s.kind == "line" and len(s.x) == 2]
    assert series.y.tolist() == [3, 4]


def test_words_on_the_horizontal_axis_become_places():
    ax = axes()
    ax.plot(["a", "b"], [1, 2])
    assert drawing(ax).series[0].x.tolist() == [0, 1]


def test_a_figure_its_axes_and_what_plot_returns_give_the_same():
    ax = axes()
    lines = ax.plot([1, 2], [3, 4])
    for plot in (ax, ax.figure, lines, drawing(ax)):
        assert drawing(plot).series[0].y.tolist() == [3, 4]
    assert drawing(axes()).series == () and isinstance(drawing(axes()), Drawing)


def test_what_is_no_plot_is_refused():
    sentence = "a plot must be a matplotlib figure or axes; received an object of type NoneType. Return what plt.subplots"
    with pytest.raises(NnoptError, match=sentence):
        drawing(None)
