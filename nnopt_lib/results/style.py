"""One look for all figures: colors and marks, styles, and where names, legends and labels go."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Okabe & Ito's palette, told apart with every common color blindness; blue and vermilion lead, yellow is left
# out since it fades on white. Markers and line styles repeat the distinction for gray prints.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "oo")
INK, QUIET = "#1a1a1a", "#767676"

STYLES: dict[str, dict[str, Any]] = {
    "screen": {"width": 7.0, "row": 0.42, "text": 11.0, "line": 1.8, "marker": 6.0},
    "paper": {"width": 3.25, "row": 0.2, "text": 8.0, "line": 1.1, "marker": 3.8},
}  # paper: one column of a two-column page; row: the height of one interval
FORMATS = ("svg", "pdf", "png")
GOLDEN = (1 + math.sqrt(5)) / 2


def settings(look: Mapping[str, Any]) -> Any:
    """Matplotlib's settings of a style."""
    text = look["text"]
    return {
        "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
        "font.size": text,
        "axes.labelsize": text,
        "xtick.labelsize": text * 0.9,
        "ytick.labelsize": text * 0.95,
        "legend.fontsize": text * 0.9,
        "legend.frameon": False,
        "lines.linewidth": look["line"],
        "lines.markersize": look["marker"],
        "axes.linewidth": look["line"] * 0.45,
        "axes.edgecolor": QUIET,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": "#dddddd",
        "grid.linewidth": look["line"] * 0.4,
        "axes.axisbelow": True,
        "pdf.fonttype": 42,  # fonts embedded as TrueType: text stays text
        "svg.fonttype": "path",  # outlines: the same on machines without the font
        "hatch.color": "white",
        "svg.hashsalt": "nnopt",  # element names that do not change from run to run
    }


def line_width() -> float:
    """The width of lines in the style that is being drawn, in points."""
    from matplotlib import rcParams

    return float(rcParams["lines.linewidth"])


def legend_above(axes: Axes) -> None:
    """One entry per distinct label, above the axes where no data can be hidden."""
    from matplotlib import rcParams

    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    columns = len(unique) if rcParams["font.size"] > 9 else 1  # a paper's column has no room side by side
    position: dict[str, Any] = {
        "loc": "lower left",  # of the legend, put on the upper left corner of the axes
        "bbox_to_anchor": (0, 1.0),
        "borderaxespad": 0.2,
        "ncols": columns,
    }
    axes.legend(handles=list(unique.values()), labels=list(unique), **position)


def name_ends(axes: Axes, ends: list[tuple[float, float, Any, str]]) -> None:
    """Write each line's name beside its last point, moved apart where two would overlap."""
    from matplotlib import rcParams

    _lay_out(axes)  # else transData is that of axes before the layout
    text = rcParams["font.size"] * 1.25 / 72 * axes.figure.dpi  # height of a line of text, in pixels
    to_pixels = axes.transData.transform
    ends = sorted(ends, key=lambda end: end[0])
    pixels = [float(to_pixels((x, y))[1]) for y, x, _, _ in ends]
    heights: list[float] = []
    for pixel in pixels:  # from the lowest upward, each at least a line of text above the one before
        heights.append(max(pixel, heights[-1] + text) if heights else pixel)
    shift = (sum(heights) - sum(pixels)) / len(pixels)  # apart in both directions, not only upward
    for pixel, height, (y, x, name, color) in zip(pixels, heights, ends, strict=True):
        offset = (height - shift - pixel) * 72 / axes.figure.dpi
        axes.annotate(
            str(name),
            (x, y),
            xytext=(6, offset),
            textcoords="offset points",
            va="center",
            color=color,
            annotation_clip=False,
        )


def place_names_again(axes: Axes) -> None:
    """Names of lines where they belong now that scales have changed, as those shared by panels do."""
    names: list[Any] = list(axes.texts)
    ends = [(float(name.xy[1]), float(name.xy[0]), name.get_text(), name.get_color()) for name in names]
    for name in names:
        name.remove()
    if ends:
        name_ends(axes, ends)


def plain_log(axis: Axis, *, powers_of_two: bool = False) -> None:
    """Plain numbers on a logarithmic axis of less than three decades, where powers of ten tell little.

    1, 2 and 5 of each decade, or powers of two, as of widths, depths and batches: 1, 2, 4 ... 32.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    if not 0 < high < 1000 * low:  # over more decades these would run into each other
        return
    powers = [2.0**power for power in range(-10, 31) if low <= 2.0**power <= high]
    if powers_of_two and low > 0.7 and len(powers) >= 3:
        step = 1 if len(powers) <= 7 else 2
        axis.set_major_locator(FixedLocator(powers[::step]))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _sparsity(halved: int) -> str:
    """1 - 1 / 2^n with as many digits as tell it from its neighbors: 0.5, 0.75, 0.875, 0.94, 0.97, 0.984."""
    digits = halved if halved <= 3 else 2 if halved <= 5 else halved // 2
    return f"{1 - 0.5**halved:.{digits}f}"


def halvings(axis: Axis, sparsities: Sequence[float]) -> None:
    """Ticks of an axis on which a sparsity s stands at -log2(1 - s): 0, 0.5, 0.75 and so on."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    most = max(0.5, *sparsities)
    last = math.ceil(-math.log2(1 - most) - 0.01)
    ticks = range(0, last + 1, 1 if last <= 7 else 2)  # a paper's column has no room for more labels
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, position: _sparsity(round(value))))


def _lay_out(axes: Axes) -> None:
    """Give everything its place, so that sizes can be asked for."""
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.draw_without_rendering()


def wrap_labels(axes: Axes) -> None:
    """Break the labels of axes that are longer than what they stand beside, rather than cut them off."""
    _lay_out(axes)
    for axis, side in ((axes.xaxis, "width"), (axes.yaxis, "height")):
        label = axis.get_label()
        if label.get_text():
            room = getattr(axes.get_window_extent(), side) / getattr(label.get_window_extent(), side)
            if room < 1:
                # Never below 12 letters a line, or a low figure would have a word on each.
                label.set_text(textwrap.fill(label.get_text(), max(12, int(room * len(label.get_text())))))
