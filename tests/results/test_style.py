"""Names, labels and colors that can be read on a screen, in a column, and by color-blind readers."""

from __future__ import annotations

import pytest

from nnopt_lib.results.layout import draw
from nnopt_lib.results.style import COLORS
from tests.results.kinds import KINDS


def test_names_of_lines_that_end_together_do_not_overlap():
    rows = [{"x": x, "y": 1 + 0.001 * s, "s": f"line {s}"} for s in range(4) for x in (0, 1)]
    options = {"x": "x", "y": "y", "series": "s", "x_label": "x", "y_label": "y"}
    drawn = draw({"kind": "curves", "rows": rows, "options": options}, "screen", None)
    drawn.canvas.draw()
    boxes = sorted((t.get_window_extent() for t in drawn.axes[0].texts), key=lambda box: box.y0)
    assert all(low.y0 + 0.8 * low.height <= high.y0 for low, high in zip(boxes, boxes[1:], strict=False))


def test_the_palette_is_told_apart_by_deficient_eyes():
    """Distances in CIELAB after simulating deuteranopia and protanopia (Machado et al. 2009, severity 1)."""
    import numpy as np
    from matplotlib.colors import to_rgb

    def linear(rgb):
        return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)

    def lab(rgb):
        to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    simulations = {
        "normal": np.eye(3),
        "deuteranopia": np.array(
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
        ),
        "protanopia": np.array(
            [
                [0.152286, 1.052583, -0.204868],
                [0.114503, 0.786281, 0.099216],
                [-0.003882, -0.048116, 1.051998],
            ]
        ),
    }
    for name, matrix in simulations.items():
        colors = [lab(matrix @ linear(np.array(to_rgb(color)))) for color in COLORS[:5]]
        closest = min(float(np.linalg.norm(a - b)) for i, a in enumerate(colors) for b in colors[:i])
        assert closest > 8, name  # about three and a half times a just noticeable difference of 2.3


def test_labels_longer_than_their_axis_are_broken_rather_than_cut_off():
    rows, options = KINDS["intervals"]
    label = "points of test accuracy against the dense network, of ten seeds"
    figure = {"kind": "intervals", "rows": rows, "options": {**options, "x_label": label}}
    drawn = draw(figure, "paper", 3.25)
    drawn.draw_without_rendering()
    extent = drawn.axes[0].xaxis.get_label().get_window_extent()
    assert drawn.axes[0].get_xlabel().replace("\n", " ") == label
    assert extent.x0 >= 0 and extent.x1 <= 3.25 * drawn.dpi and extent.y0 >= 0


@pytest.mark.parametrize(("most", "plain"), [(40, True), (40_000, False)])
def test_logarithmic_axes_of_few_decades_have_plain_numbers(most, plain):
    rows = [{"width": width, "seconds": 1.0} for width in (1, 3, most)]
    options = {"x": "width", "y": "seconds", "x_label": "width", "y_label": "seconds", "x_log": True}
    drawn = draw({"kind": "curves", "rows": rows, "options": options}, "paper", 3.25)
    drawn.draw_without_rendering()
    texts = [tick.get_text() for tick in drawn.axes[0].get_xticklabels()]
    assert (texts == ["1", "2", "4", "8", "16", "32"]) is plain and any(
        "10^" in text for text in texts
    ) is not plain
