"""One drawing function per kind of figure, on axes that are there, each from rows alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nnopt_lib.checks import check_choice, refuse
from nnopt_lib.results.contours import contours
from nnopt_lib.results.style import (
    COLORS,
    HATCHES,
    INK,
    LINES,
    MARKERS,
    QUIET,
    halvings,
    legend_above,
    line_width,
    name_ends,
    plain_log,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]

# ---------------------------------------------------------------- kinds


def _intervals(
    axes: Axes,
    rows: Rows,
    *,
    x_label: str,
    mark: str | None = None,
    mark_label: str = "",
    band: str | None = None,
    label: str = "label",
    center: str = "mean",
) -> None:
    """A dot with its 95 % interval per row, labels on the left; `mark` and `band` name fields.

    Rows have the fields `label`, mean, low, high; `band` is the half width around `mark`, `center` what the
    dot is ("mean" or "median").
    """
    check_choice("center", center, ("mean", "median"))
    for field in filter(None, (mark, band)):
        if not any(field in row for row in rows):  # a row may lack it, but not all of them
            raise KeyError(field)
    for y, row in enumerate(rows):
        axes.plot([row["low"], row["high"]], [y, y], color=COLORS[0], solid_capstyle="round")
        axes.plot(row["mean"], y, "o", color=COLORS[0], label=f"{center}, 95 % interval")
        if mark and row.get(mark) is not None:
            if band and row.get(band):
                _wide_line(axes, row[mark], row[band], y)
            axes.plot(row[mark], y, "D", color=COLORS[1], markerfacecolor="white", label=mark_label)
    _name_rows(axes, [row[label] for row in rows])
    axes.set_xlabel(x_label)
    if mark or center != "mean":  # a median must not be taken for a mean
        legend_above(axes)


def _pairs(
    axes: Axes, rows: Rows, *, x_label: str, zero: bool = True, label: str = "label", dot: str = "one seed"
) -> None:
    """A pale dot per pair, the mean of all with its 95 % interval, labels on the left; a line at zero.

    Rows have the fields `label`, values (a list), mean, low, high. The legend says that each dot is `dot`.
    """
    if zero:
        axes.axvline(0, color=QUIET, linewidth=0.6 * line_width())
    for y, row in enumerate(rows):
        values = row["values"]
        lower = [y + 0.28] * len(values)  # below the mean, so that none hides it
        axes.plot(values, lower, "o", color=COLORS[1], alpha=0.45, markeredgewidth=0, label=dot)
        axes.plot([row["low"], row["high"]], [y, y], color=COLORS[0], solid_capstyle="round")
        axes.plot(row["mean"], y, "D", color=COLORS[0], label="mean, 95 % interval")
    _name_rows(axes, [row[label] for row in rows])
    axes.set_xlabel(x_label)
    legend_above(axes)


def _wide_line(axes: Axes, center: float, half_width: float, y: float) -> None:
    """A pale horizontal line behind a mark, from one end of its band to the other."""
    ends = [center - half_width, center + half_width]
    # Round ends would reach beyond the band.
    axes.plot(ends, [y, y], color=COLORS[1], linewidth=4 * line_width(), alpha=0.3, solid_capstyle="butt")


def _curves(
    axes: Axes,
    rows: Rows,
    *,
    x: str,
    y: str,
    x_label: str,
    y_label: str,
    series: str | None = None,
    low: str | None = None,
    high: str | None = None,
    x_log: bool = False,
    y_log: bool = False,
    steps: bool = False,
    markers: bool = True,
    y_from_zero: bool = False,
    x_halvings: bool = False,
    dodge: bool = False,
    names: Sequence[Any] | None = None,
) -> None:
    """`y` against `x`, a line per value of `series` with its name at the right end, a band low to high.

    `x_halvings` is for a sparsity: every halving of what is kept is one step. `dodge` moves the series a
    little apart, where their points would cover each other. `names` are the values of `series` that other
    panels of the figure have as well: one looks the same in all of them.
    """
    if (low is None) != (high is None):
        refuse("a band needs both low and high", f"low={low!r}, high={high!r}")
    if x_halvings and x_log:
        refuse("an axis has one scale: x_halvings or x_log", "both")
    places = [_position(row[x], x, x_halvings) for row in rows]
    names = names or (list(dict.fromkeys(row[series] for row in rows)) if series else [None])
    ends = []
    for index, name in enumerate(names):
        # A line joins its points in the order of the list, whatever the order of the rows was.
        points = sorted(
            (row for row in rows if series is None or row[series] == name), key=lambda row: row[x]
        )
        if not points:
            continue
        xs, ys = [_position(row[x], x, x_halvings) for row in points], [row[y] for row in points]
        if dodge:
            xs = _dodged(xs, index - (len(names) - 1) / 2, (min(places), max(places)), x_log)
        _line(axes, index, xs, ys, steps, markers)
        if low and high:
            _band(axes, index, xs, [(row[low], row[high]) for row in points], steps)
        ends.append((ys[-1], xs[-1], name, COLORS[index % len(COLORS)]))
    _scale(axes, x_log, y_log, y_from_zero)
    if x_halvings:
        halvings(axes.xaxis, [row[x] for row in rows])
    elif not x_log and all(isinstance(row[x], int) for row in rows):
        from matplotlib.ticker import MaxNLocator

        # As by default, but there are no two and a half layers.
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y")
    if series:
        name_ends(axes, ends)  # last: it reads where the scales have put the points


def _line(axes: Axes, index: int, xs: list[Any], ys: list[Any], steps: bool, markers: bool) -> None:
    """One series, told apart by color, dashes and, where wanted, markers."""
    options: dict[str, Any] = {"color": COLORS[index % len(COLORS)], "linestyle": LINES[index % len(LINES)]}
    if markers:
        options |= {"marker": MARKERS[index % len(MARKERS)]}
    axes.plot(xs, ys, drawstyle="steps-mid" if steps else "default", **options)


def _band(axes: Axes, index: int, xs: list[Any], bounds: list[tuple[Any, Any]], steps: bool) -> None:
    """A pale area of a series' color from its lower to its upper bounds."""
    lows, highs = zip(*bounds, strict=True)
    step: Any = "mid" if steps else None
    color = COLORS[index % len(COLORS)]
    axes.fill_between(xs, lows, highs, color=color, alpha=0.18, linewidth=0, step=step)


def _position(value: float, field: str, in_halvings: bool) -> float:
    """Where a value of x stands: a sparsity in halvings of what is kept, where the figure is one of these."""
    if not in_halvings:
        return value
    if not 0 <= value < 1:
        refuse(f"{field} must be a sparsity, at least 0 and below 1, to stand in halvings", value)
    return -math.log2(1 - value)


def _dodged(xs: list[float], place: float, span: tuple[float, float], x_log: bool) -> list[float]:
    """The positions of one series moved by its place among all: a marker's width each, of what all span."""
    low, high = span
    if x_log:
        factor = (high / low) ** (0.016 * place)
        return [x * factor for x in xs]
    return [x + 0.016 * place * (high - low) for x in xs]


def _scale(axes: Axes, x_log: bool, y_log: bool, y_from_zero: bool) -> None:
    """The scales of curves; after the lines, since ticks depend on what the axes span."""
    if x_log:
        axes.set_xscale("log")
        plain_log(axes.xaxis, powers_of_two=True)
    if y_log:
        axes.set_yscale("log")
        plain_log(axes.yaxis)
    if y_from_zero:
        axes.set_ylim(bottom=0)


def _bars(
    axes: Axes,
    rows: Rows,
    *,
    fields: Mapping[str, str],
    x_label: str,
    label: str = "label",
    stacked: bool = False,
) -> None:
    """Horizontal bars, labels on the left; `fields` maps fields to names; `stacked`: parts of a whole."""
    thickness = 0.8 if stacked else 0.8 / len(fields)  # of a row's height of 1; the rest sets them apart
    ends = [0.0] * len(rows)
    for index, (field, name) in enumerate(fields.items()):
        offset = 0.0 if stacked else (index - (len(fields) - 1) / 2) * thickness  # centered on its row
        heights, values = [y + offset for y in range(len(rows))], [row[field] for row in rows]
        look: dict[str, Any] = {"color": COLORS[index], "hatch": HATCHES[index], "label": name}
        axes.barh(heights, values, thickness * 0.9, left=ends, **look)
        ends = [end + value for end, value in zip(ends, values, strict=True)] if stacked else ends
    _name_rows(axes, [row[label] for row in rows])
    axes.set_xlabel(x_label)
    legend_above(axes)


def _images(axes: Axes, rows: Rows, *, signed: bool = False, mask: bool = False) -> None:
    """One picture on its axes: `pixels` as an image, rows from the top, or as a line where it is a list.

    `signed` colors around 0, the same on both sides; `mask` draws what is kept (1, True) dark.
    """
    if signed and mask:
        refuse("images are signed or a mask", "both")
    (row,) = rows
    pixels = row["pixels"]
    if pixels and not isinstance(pixels[0], (list, tuple)):
        axes.plot(range(len(pixels)), pixels, color=COLORS[0])
        axes.set_xticks([])
        axes.set_yticks([])
        return
    if not pixels or len({len(line) for line in pixels}) != 1:
        refuse("pixels must be lines of equal length, or one list of numbers", f"those of {row['label']!r}")
    top = max((abs(float(value)) for line in pixels for value in line), default=0.0) or 1.0
    # A gray that is dark where there is much: ink on paper, in masks too.
    look: dict[str, Any] = {"cmap": "RdBu", "vmin": -top, "vmax": top} if signed else {"cmap": "Greys"}
    if mask:
        look = {"cmap": "Greys", "vmin": 0, "vmax": 1.2}
    axes.imshow([[float(value) for value in line] for line in pixels], interpolation="nearest", **look)
    axes.spines[:].set_visible(True)  # a frame, since white is the color of paper, too
    axes.set_xticks([])
    axes.set_yticks([])


def _name_rows(axes: Axes, names: Sequence[Any]) -> None:
    """Rows from the top downward, each with its name on the left."""
    axes.set_yticks(range(len(names)), [str(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)  # the larger bound first turns the axis upside down
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _roofline(axes: Axes, rows: Rows) -> None:
    """Attainable rate against operational intensity; rows of kind "roof" and "point".

    A roof row has `flops_per_second` and `bytes_per_second` (the measured peaks); a point row has `label`,
    `intensity` (operations per byte) and `flops_per_second` (reached).
    """
    roof = next((row for row in rows if row["kind"] == "roof"), None)
    if roof is None:
        refuse("a roofline needs one row of kind 'roof'", "none")
    points = [row for row in rows if row["kind"] == "point"]
    peak, bandwidth = roof["flops_per_second"] / 1e9, roof["bytes_per_second"] / 1e9
    ridge = peak / bandwidth
    # Margins are factors and not widths: both axes are logarithmic.
    left = min([row["intensity"] for row in points] + [ridge]) / 3
    right = max([row["intensity"] for row in points] + [ridge]) * 6
    axes.plot([left, ridge, right], [left * bandwidth, peak, peak], color=INK)
    axes.axvline(ridge, color=QUIET, linestyle=":", linewidth=0.6 * line_width())
    for index, row in enumerate(points):
        marker, color = MARKERS[index % len(MARKERS)], COLORS[index % len(COLORS)]
        axes.plot(row["intensity"], row["flops_per_second"] / 1e9, marker, color=color, label=row["label"])
    axes.set_xscale("log")
    axes.set_yscale("log")
    lowest = min([row["flops_per_second"] / 1e9 for row in points] + [left * bandwidth])
    axes.set_xlim(left, right)
    axes.set_ylim(lowest / 2, peak * 3)
    axes.set_xlabel("operational intensity (FLOP per byte)")
    axes.set_ylabel("GFLOP/s")
    axes.grid()
    axes.legend(loc="lower right")


def _graph(axes: Axes, rows: Rows) -> None:
    """Layers from the top downward: on the left what reads what, on the right which are coupled.

    Rows of kind "node" have `label` and `group`, the name of those that leave together (None: cannot leave);
    rows of kind "edge" have `source` and `target`, labels of nodes. One color and marker per group.
    """
    nodes = [row for row in rows if row["kind"] == "node"]
    position = {row["label"]: index for index, row in enumerate(nodes)}
    for row in rows:
        if row["kind"] == "edge":
            _bow(axes, position[row["source"]], position[row["target"]], -1, QUIET, 0.5 * line_width())
    _draw_groups(axes, nodes)
    _name_rows(axes, [row["label"] for row in nodes])
    axes.set_xlim(-1.1, 1.1)
    axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.text(-0.55, -0.6, "reads", ha="center", color=QUIET)
    axes.text(0.55, -0.6, "leave together", ha="center", color=INK)


def _draw_groups(axes: Axes, nodes: Rows) -> None:
    """The marks of all nodes, and curves between those that leave together."""
    groups: dict[str | None, list[int]] = {}
    for index, row in enumerate(nodes):
        groups.setdefault(row["group"], []).append(index)
    alone = groups.pop(None, [])
    for index, (name, members) in enumerate(groups.items()):
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        # Joined one by one: a curve from each member to each other would hide who they are.
        for upper, lower in itertools.pairwise(members):
            _bow(axes, upper, lower, 1, color, line_width())
        axes.plot([0] * len(members), members, marker, color=color)
        axes.text(1.1, members[0], str(name), va="center", color=color)
    axes.plot([0] * len(alone), alone, "o", color=QUIET, markerfacecolor="white")


def _bow(axes: Axes, start: int, end: int, side: int, color: str, width: float) -> None:
    """A curve between two rows, the farther out the longer; neighbors on the left are joined straight."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    length = abs(end - start)
    # Farther with length, but never beyond 0.94: a cubic curve gets three quarters of the way to its
    # control points, and the axes end at 1.1.
    out = side * (0.0 if side < 0 and length == 1 else 1.25 * (1 - 0.72**length))
    codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    path = Path([(0, start), (out, start), (out, end), (0, end)], codes)
    axes.add_patch(PathPatch(path, facecolor="none", edgecolor=color, linewidth=width, zorder=1))


KINDS: dict[str, Callable[..., None]] = {
    "intervals": _intervals,
    "curves": _curves,
    "bars": _bars,
    "pairs": _pairs,
    "images": _images,
    "roofline": _roofline,
    "graph": _graph,
    "contours": contours,
}
