"""Panels, broken axes and grids of images: every row is drawn once, on the axes where it belongs."""

from __future__ import annotations

import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.results.layout import draw, render
from nnopt_lib.results.style import STYLES
from tests.results.kinds import KINDS

CURVES = [
    {"net": net, "way": way, "sparsity": s, "value": base - 10 * k}
    for net, base in (("MLP", 60.0), ("CNN", 90.0))
    for way in ("a", "b")
    for k, s in enumerate((0.0, 0.5, 0.75, 0.875))
]
OPTIONS = {"x": "sparsity", "y": "value", "x_label": "sparsity", "y_label": "accuracy", "series": "way"}


def drawn(kind, rows, style="screen", width=None, **options):
    return draw({"kind": kind, "rows": rows, "options": options}, style, width)


def points(axes):
    return [line.get_xydata().tolist() for line in axes.lines]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_rows_give_equal_bytes(kind, style):
    figure = {"kind": kind, "rows": KINDS[kind][0], "options": KINDS[kind][1]}
    assert render(figure, style, None, ["svg"]) == render(figure, style, None, ["svg"])


def test_each_panel_holds_the_rows_of_its_value_on_the_same_scales():
    mlp, cnn = drawn("curves", CURVES, panel="net", **OPTIONS).axes
    assert [axes.get_title(loc="left") for axes in (mlp, cnn)] == ["MLP", "CNN"]
    assert points(mlp)[0] == [[0, 60], [0.5, 50], [0.75, 40], [0.875, 30]]
    assert points(cnn)[0] == [[0, 90], [0.5, 80], [0.75, 70], [0.875, 60]]
    assert mlp.get_ylim() == cnn.get_ylim() and mlp.get_xlim() == cnn.get_xlim()


def test_panels_of_a_narrow_figure_stand_one_above_the_other():
    wide, narrow = (drawn("curves", CURVES, style, panel="net", **OPTIONS) for style in ("screen", "paper"))
    side_by_side = [axes.get_position().x0 for axes in wide.axes]
    assert side_by_side[0] < side_by_side[1]
    above = [axes.get_subplotspec().rowspan.start for axes in narrow.axes]
    assert above == [0, 1]


def test_panels_of_intervals_name_their_rows_and_have_one_legend():
    rows = [
        {"label": label, "runtime": runtime, "mean": 2.0, "low": 1.0, "high": 3.0}
        for runtime in ("eager", "compiled", "keras")
        for label in ("batch 1", "batch 8")
    ]
    figure = drawn("intervals", rows, panel="runtime", x_label="speed-up", center="median")
    assert len(figure.axes) == 3 and not any(axes.get_legend() for axes in figure.axes)
    (legend,) = figure.legends  # one for all panels, since a median must not be taken for a mean
    assert [text.get_text() for text in legend.get_texts()] == ["median, 95 % interval"]
    assert not drawn("intervals", rows, panel="runtime", x_label="speed-up").legends
    marked = drawn(
        "intervals",
        [{**row, "t": 4.0} for row in rows],
        panel="runtime",
        x_label="x",
        mark="t",
        mark_label="theory",
        center="median",
    )
    (legend,) = marked.legends
    assert [text.get_text() for text in legend.get_texts()] == ["median, 95 % interval", "theory"]


def test_a_series_looks_the_same_in_all_panels():
    rows = [
        {"net": net, "way": way, "x": x, "y": float(x)}
        for net, ways in (("one", ("a", "b", "c")), ("other", ("a", "c")))
        for way in ways
        for x in (1, 2)
    ]
    options = {"x": "x", "y": "y", "x_label": "x", "y_label": "y", "series": "way", "panel": "net"}
    first, second = (axes.lines for axes in drawn("curves", rows, **options).axes)
    looks = [
        [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in one]
        for one in (first, second)
    ]
    assert len(looks[0]) == 3 and looks[1] == [looks[0][0], looks[0][2]]


def test_panels_of_intervals_share_a_scale_or_have_their_own():
    rows = [
        {"half": half, "label": "a", "mean": mean, "low": mean - 1, "high": mean + 1}
        for half, mean in (("one", 0.0), ("other", -50.0))
    ]
    shared, own = (
        [axes.get_xlim() for axes in drawn("intervals", rows, panel="half", x_label="x", **options).axes]
        for options in ({}, {"panel_scales": "own"})
    )
    assert shared[0] == shared[1] and shared[0][0] < -51 and shared[0][1] > 1
    assert own[0][0] > -10 and own[1][0] < -51


def test_panels_of_curves_share_scales_or_have_their_own_x():
    rows = [
        {"method": method, "amount": x, "score": x / 10}
        for method, amounts in (("pruned", (0.5, 0.9)), ("quantized", (2, 8)))
        for x in amounts
    ]
    options = {"x": "amount", "y": "score", "x_label": "amount", "y_label": "score", "panel": "method"}
    shared, own = (
        [axes.get_xlim() for axes in drawn("curves", rows, **options, **more).axes]
        for more in ({}, {"panel_scales": "own"})
    )
    assert shared[0] == shared[1]
    assert own[0][1] < 1 and own[1][0] > 1
    pruned, quantized = drawn("curves", rows, panel_scales="own", **options).axes
    assert pruned.get_ylim() == quantized.get_ylim()  # scores are compared across panels


def test_a_sparsity_stands_in_halvings_of_what_is_kept():
    (axes,) = drawn("curves", CURVES[:4], x_halvings=True, **OPTIONS).axes
    assert points(axes) == [[[0, 60], [1, 50], [2, 40], [3, 30]]]
    axes.figure.draw_without_rendering()
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.5", "0.75", "0.875"]


def test_dodged_series_do_not_cover_each_other():
    (axes,) = drawn("curves", CURVES[:8], dodge=True, **OPTIONS).axes
    first, second = ([x for x, _ in line] for line in points(axes))
    apart = np.subtract(second, first)
    assert (apart > 0).all() and (apart < 0.02).all()
    middle = (np.array(first) + second) / 2
    np.testing.assert_allclose(middle, [0, 0.5, 0.75, 0.875], atol=1e-12)


BROKEN = [{"depth": d, "error": e, "way": "a"} for d, e in ((1, 20.0), (2, 18.0), (4, 90.0), (8, 91.0))]
DEPTHS = {"x": "depth", "y": "error", "x_label": "layers", "y_label": "error", "x_log": True}


def test_a_broken_axis_leaves_out_an_empty_range_only():
    upper, lower = drawn("curves", BROKEN, y_break=(30, 80), **DEPTHS).axes
    assert upper.get_ylim()[0] == 80 and lower.get_ylim()[1] == 30
    assert upper.get_ylim()[1] > 91 and lower.get_ylim()[0] < 18
    assert [[1, 20.0], [2, 18.0], [4, 90.0], [8, 91.0]] in points(upper)
    assert [[1, 20.0], [2, 18.0], [4, 90.0], [8, 91.0]] in points(lower)


@pytest.mark.parametrize("y_break", [(15, 80), (30, 95), (10, 15), (80, 30)])
def test_a_break_that_would_hide_points_is_refused(y_break):
    with pytest.raises(NnoptError) as error:
        drawn("curves", BROKEN, y_break=y_break, **DEPTHS)
    assert str(error.value).startswith(
        "y_break must be a range, from low to high, with points below and above it and none within; received "
    )


def test_images_show_their_pixels_and_signals_their_samples():
    rows, options = KINDS["images"]
    axes = drawn("images", rows, **options).axes
    assert [one.get_title() for one in axes] == ["a digit", "a mask", "a signal"]
    assert axes[0].images[0].get_array().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert axes[1].images[0].get_array().tolist() == [[1, 0, 1], [0, 0, 1]]
    assert points(axes[2]) == [[[0, 0.0], [1, 0.5], [2, -1.0], [3, 2.0]]]


def test_signed_images_are_colored_alike_on_both_sides_of_zero():
    (axes,) = drawn("images", [{"label": "filter", "pixels": [[-3.0, 1.0]]}], signed=True).axes
    assert axes.images[0].get_clim() == (-3.0, 3.0)


@pytest.mark.parametrize(
    ("kind", "rows", "options", "sentence"),
    [
        (
            "images",
            [{"label": "x", "pixels": [[1, 2], [3]]}],
            {},
            "pixels must be lines of equal length, or one list of numbers; received those of 'x'.",
        ),
        (
            "curves",
            [{"s": 1.0, "v": 1}],
            {"x": "s", "y": "v", "x_label": "s", "y_label": "v", "x_halvings": True},
            "s must be a sparsity, at least 0 and below 1, to stand in halvings; received 1.0.",
        ),
        ("curves", CURVES, {**OPTIONS, "panel": "net", "panel_columns": 0}, "panel_columns must be a whole "),
        (
            "intervals",
            [{"half": "one", "label": "a", "mean": 0.0, "low": -1, "high": 1}],
            {"panel": "half", "panel_scales": "free", "x_label": "x"},
            "panel_scales must be 'shared' or 'own'; received 'free'.",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(kind, rows, options, sentence):
    with pytest.raises(NnoptError) as error:
        drawn(kind, rows, **options)
    assert str(error.value).startswith(sentence)


def test_a_field_of_panels_that_rows_lack_is_named():
    with pytest.raises(KeyError, match="runtime"):
        drawn("curves", CURVES, panel="runtime", **OPTIONS)


def test_pairs_have_a_dot_for_each_seed_and_the_mean_above_them():
    rows, options = KINDS["pairs"]
    (axes,) = drawn("pairs", rows, **options).axes
    assert [[0.4, 0.28], [-0.2, 0.28], [1.1, 0.28]] in points(axes)
    assert [[0.43, 0.0]] in points(axes) and [[-1.2, 0.0], [2.0, 0.0]] in points(axes)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["tuned − as printed", "deep − shallow"]


def test_what_a_dot_of_pairs_is_stands_in_the_legend():
    rows, options = KINDS["pairs"]
    for more, name in (({}, "one seed"), ({"dot": "one split"}, "one split")):
        (axes,) = drawn("pairs", rows, **options, **more).axes
        assert name in [text.get_text() for text in axes.get_legend().get_texts()]


def test_whole_numbers_have_whole_ticks():
    rows = [{"layers": layers, "error": 1.0} for layers in (1, 2, 3, 4, 5)]
    (axes,) = drawn("curves", rows, x="layers", y="error", x_label="layers", y_label="error").axes
    assert all(tick == int(tick) for tick in axes.get_xticks())
    halves = [{**row, "layers": row["layers"] / 2} for row in rows]
    (axes,) = drawn("curves", halves, x="layers", y="error", x_label="layers", y_label="error").axes
    assert any(tick != int(tick) for tick in axes.get_xticks())


def test_a_median_is_called_one_even_without_a_mark():
    rows = [{"label": "batch 1", "mean": 2.0, "low": 1.0, "high": 3.0}]
    (median,), (mean,) = (drawn("intervals", rows, x_label="x", center=c).axes for c in ("median", "mean"))
    assert [text.get_text() for text in median.get_legend().get_texts()] == ["median, 95 % interval"]
    assert mean.get_legend() is None


@pytest.mark.parametrize("style", STYLES)
def test_names_of_lines_in_panels_do_not_overlap_on_the_shared_scale(style):
    close = [{**row, "value": row["value"] - (row["way"] == "b")} for row in CURVES]
    figure = drawn("curves", close, style, panel="net", **OPTIONS)
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
        assert low.y0 + 0.8 * low.height <= high.y0


def test_a_series_of_one_point_is_dodged_as_far_as_the_others():
    rows = [*CURVES[:4], {**CURVES[0], "way": "b"}]
    first, second = points(drawn("curves", rows, dodge=True, **OPTIONS).axes[0])
    assert second[0][0] - first[0][0] == pytest.approx(0.016 * 0.875)


@pytest.mark.parametrize("style", STYLES)
def test_grids_of_images_are_as_high_as_their_lines_and_long_labels_are_broken(style):
    rows = [{"label": "weights of one unit", "pixels": [[0, 1], [1, 0]]}] * 10
    two, one = (drawn("images", rows[:count], style, columns=5) for count in (10, 5))
    assert two.get_size_inches()[1] == pytest.approx(2 * one.get_size_inches()[1])
    one.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in one.axes]
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize(
    ("kind", "rows", "options", "sentence"),
    [
        (
            "curves",
            CURVES,
            {"x_log": True, "x_halvings": True},
            "an axis has one scale: x_halvings or x_log; received both.",
        ),
        (
            "curves",
            CURVES,
            {"panel": "net", "y_break": (1, 2)},
            "a figure has panels or y_break; received both.",
        ),
        (
            "curves",
            CURVES,
            {"y_break": 3},
            "y_break must be two numbers, the ends of the range that is left out; received 3.",
        ),
        (
            "images",
            [{"label": "a", "pixels": [[1]]}],
            {"signed": True, "mask": True},
            "images are signed or a mask; received both.",
        ),
        (
            "intervals",
            [],
            {"x_label": "x", "center": "mode"},
            "center must be one of mean, median; received 'mode'.",
        ),
    ],
)
def test_options_that_exclude_each_other_are_refused(kind, rows, options, sentence):
    with pytest.raises(NnoptError) as error:
        drawn(kind, rows, **({**OPTIONS, **options} if kind == "curves" else options))
    assert str(error.value).startswith(sentence[:-1])
